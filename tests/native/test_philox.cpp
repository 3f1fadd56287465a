// Known answers published with the authors' Random123 library, and the layout of the counter.
#include <cmath>
#include <vector>

#include "check.h"
#include "core/philox.h"
#include "cpu/resample.h"
#include "cuda/resample.h"

using smoacs::philox4x32;
using smoacs::PhiloxBlock;
using smoacs::RandomStream;

namespace {

bool equal(const PhiloxBlock& a, const PhiloxBlock& b) {
    for (int i = 0; i < 4; ++i) {
        if (a.word[i] != b.word[i]) return false;
    }
    return true;
}

void known_answers() {
    const std::uint32_t ones = 0xffffffffu;
    CHECK(equal(philox4x32({{0, 0, 0, 0}}, 0, 0),
                {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}));
    CHECK(equal(philox4x32({{ones, ones, ones, ones}}, ones, ones),
                {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}));
    CHECK(equal(philox4x32({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u,
                           0x299f31d0u),
                {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}));
}

void counter_layout() {
    const RandomStream stream{0x299f31d0a4093822u, 0x344'13198a2eu, 0x85a308d3u, 0x370};
    const PhiloxBlock counter{{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03700344u}};
    CHECK(equal(stream.block(0x243f6a88u), philox4x32(counter, 0xa4093822u, 0x299f31d0u)));
}

void ends_of_the_interval() {
    CHECK(smoacs::unit_interval(0, 0) == 0.0);
    const double last = smoacs::unit_interval(0xffffffffu, 0xffffffffu);
    CHECK(last == 1.0 - std::ldexp(1.0, -53));
    float single;
    smoacs::convert_uniform(last, &single);
    CHECK(single == 1.0f - std::ldexp(1.0f, -24));
    for (std::uint32_t i = 0; i < 10000; ++i) {
        const smoacs::Pair pair = smoacs::normal_pair({1, 2, 3, 4}, i);
        CHECK(std::isfinite(pair.first) && std::isfinite(pair.second));
    }
}

template <typename T>
void a_gpu_gives_the_same_bits() {
    const std::int64_t ptr[] = {0, 1, 1, 4, 7}, candidates[] = {5, 6, 7, 8}, steps[] = {1, 2, 3, 4};
    const std::int64_t parents[] = {0, 1, 2, 2};
    const smoacs::RandomBatch batch{7, 4, 3, ptr, candidates, steps, 1, 9, 2};
    std::vector<T> values(21, T(0.5)), out(21), same(21);
    const auto compare = [&](const auto& op, const auto& gpu_op) {
        smoacs::cpu::for_each_pair(batch, op);
        smoacs::cuda::for_each_pair(batch, gpu_op, 0);
        CHECK(out == same);
    };
    compare(smoacs::Fill<T, false>{out.data()}, smoacs::Fill<T, false>{same.data()});
    compare(smoacs::Fill<T, true>{out.data()}, smoacs::Fill<T, true>{same.data()});
    compare(smoacs::Resample<T>{values.data(), parents, T(0.1), out.data()},
            smoacs::Resample<T>{values.data(), parents, T(0.1), same.data()});
}

// An odd number of values: nothing is written past the end (the address sanitizer looks).
void odd_counts() {
    const std::int64_t ptr[] = {0, 1, 1, 4}, candidates[] = {5, 6, 7}, step = 0;
    const smoacs::RandomBatch batch{4, 3, 3, ptr, candidates, &step, 0, 9, 0};
    auto* out = new double[12]();
    smoacs::cpu::for_each_pair(batch, smoacs::Fill<double, false>{out});
    for (int i = 0; i < 12; ++i) CHECK(out[i] > 0 && out[i] < 1);
    const RandomStream third{9, 7, 0, 0};
    CHECK(out[3] == smoacs::uniform_pair(third, 0).first);
    CHECK(out[11] == smoacs::uniform_pair(third, 4).first);
    delete[] out;
}

}  // namespace

int main() {
    known_answers();
    counter_layout();
    ends_of_the_interval();
    odd_counts();
    a_gpu_gives_the_same_bits<float>();
    a_gpu_gives_the_same_bits<double>();
}
