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

// What to do with the numbers of a crystal: whether it takes none, how a pair is drawn, and where
// number i goes.

template <typename T, bool Normal>
struct Fill {
    T* out;

    SMOACS_HD bool keeps(std::int64_t) const { return false; }
    SMOACS_HD void keep(const RandomBatch&, std::int64_t, std::int64_t) const {}
    SMOACS_HD static Pair draw(const RandomStream& stream, std::uint32_t index) {
        return Normal ? normal_pair(stream, index) : uniform_pair(stream, index);
    }
    SMOACS_HD void put(const RandomBatch& batch, std::int64_t crystal, std::int64_t i,
                       double number) const {
        T* to = out + batch.begin(crystal) + i;
        if (Normal) {
            *to = static_cast<T>(number);
        } else {
            convert_uniform(number, to);
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

    SMOACS_HD bool keeps(std::int64_t crystal) const { return parents[crystal] == crystal; }
    SMOACS_HD void keep(const RandomBatch& batch, std::int64_t crystal, std::int64_t i) const {
        out[batch.begin(crystal) + i] = values[batch.begin(crystal) + i];
    }
    SMOACS_HD static Pair draw(const RandomStream& stream, std::uint32_t index) {
        return normal_pair(stream, index);
    }
    SMOACS_HD void put(const RandomBatch& batch, std::int64_t crystal, std::int64_t i,
                       double number) const {
        out[batch.begin(crystal) + i] =
            values[batch.begin(parents[crystal]) + i] + sigma * static_cast<T>(number);
    }
};

// Numbers 2 * first to 2 * (first + Pairs) - 1 of a crystal, as far as they exist.
template <int Pairs, typename Op>
SMOACS_HD void run_pairs(const RandomBatch& batch, const Op& op, std::int64_t crystal,
                         std::int64_t first) {
    const std::int64_t rest = batch.count(crystal) - 2 * first;
    const int n = rest < 2 * Pairs ? static_cast<int>(rest) : 2 * Pairs;
    if (op.keeps(crystal)) {
        for (int i = 0; i < n; ++i) op.keep(batch, crystal, 2 * first + i);
        return;
    }
    const RandomStream stream = batch.stream(crystal);
    double numbers[2 * Pairs];
    for (int j = 0; j < Pairs; ++j) {
        const Pair pair = Op::draw(stream, static_cast<std::uint32_t>(first + j));
        numbers[2 * j] = pair.first;
        numbers[2 * j + 1] = pair.second;
    }
    for (int i = 0; i < n; ++i) op.put(batch, crystal, 2 * first + i, numbers[i]);
}

}  // namespace smoacs
