// Random numbers for ragged batches, and the mutation made of them; shared by CPU and GPU.
#pragma once

#include <cstdint>

#include "core/philox.h"

namespace smoacs {

// R rows of `width` numbers in C crystals. Number i of a crystal's rows, counted from its first,
// is number i of the stream of its candidate.
struct RandomBatch {
    std::int64_t n_rows, n_crystals, width;
    const std::int64_t* ptr;         // (C + 1)
    const std::int64_t* candidates;  // (C)
    const std::int64_t* steps;       // (C) or, with stride 0, one for all
    std::int64_t step_stride;
    std::uint64_t seed;
    std::uint32_t variable;

    SMOACS_HD RandomStream stream(std::int64_t crystal) const {
        return {seed, static_cast<std::uint64_t>(candidates[crystal]),
                static_cast<std::uint32_t>(steps[crystal * step_stride]), variable};
    }
    // First number of a crystal, and how many it has.
    SMOACS_HD std::int64_t begin(std::int64_t crystal) const { return ptr[crystal] * width; }
    SMOACS_HD std::int64_t count(std::int64_t crystal) const {
        return (ptr[crystal + 1] - ptr[crystal]) * width;
    }
};

// What to do with pair number `index` of a crystal: each writes the one or two numbers that exist.

template <typename T, bool Normal>
struct Fill {
    T* out;

    SMOACS_HD void operator()(const RandomBatch& batch, std::int64_t crystal,
                              std::int64_t index) const {
        T* to = out + batch.begin(crystal) + 2 * index;
        const RandomStream stream = batch.stream(crystal);
        const auto block = static_cast<std::uint32_t>(index);
        const Pair pair = Normal ? normal_pair(stream, block) : uniform_pair(stream, block);
        write(pair.first, to);
        if (2 * index + 1 < batch.count(crystal)) write(pair.second, to + 1);
    }

    SMOACS_HD static void write(double value, T* to) {
        if (Normal) {
            *to = static_cast<T>(value);
        } else {
            convert_uniform(value, to);
        }
    }
};

// A crystal takes its parent's rows plus noise; its own rows it keeps bit for bit.
template <typename T>
struct Resample {
    const T* values;
    const std::int64_t* parents;  // (C)
    T sigma;
    T* out;

    SMOACS_HD void operator()(const RandomBatch& batch, std::int64_t crystal,
                              std::int64_t index) const {
        const std::int64_t parent = parents[crystal];
        const T* from = values + batch.begin(parent) + 2 * index;
        T* to = out + batch.begin(crystal) + 2 * index;
        const bool both = 2 * index + 1 < batch.count(crystal);
        if (parent == crystal) {
            to[0] = from[0];
            if (both) to[1] = from[1];
            return;
        }
        const Pair noise = normal_pair(batch.stream(crystal), static_cast<std::uint32_t>(index));
        to[0] = from[0] + sigma * static_cast<T>(noise.first);
        if (both) to[1] = from[1] + sigma * static_cast<T>(noise.second);
    }
};

}  // namespace smoacs
