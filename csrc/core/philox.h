// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011).
//
// A number depends on (seed, candidate, step, variable, index) and on nothing else, so that a
// candidate's numbers are the same in every batch and on every device.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/math.h"

namespace smoacs {

struct PhiloxBlock {
    std::uint32_t word[4];
};

// What the 32 bits of a word are held in: as wide as their products, vector code needs not convert.
#ifdef __CUDACC__
using PhiloxWord = std::uint32_t;
#else
using PhiloxWord = std::uint64_t;
#endif

// The bijection: ten rounds on a 128-bit counter under a 64-bit key.
SMOACS_HD PhiloxBlock philox4x32(PhiloxBlock counter, std::uint32_t key0, std::uint32_t key1) {
    PhiloxWord x[4];
    for (int i = 0; i < 4; ++i) x[i] = counter.word[i];
#ifndef __CUDACC__
#pragma GCC unroll 10  // else loops over counters do not become vector code
#endif
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t{0xD2511F53u} * x[0];
        const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * x[2];
        x[0] = static_cast<PhiloxWord>(b >> 32) ^ x[1] ^ key0;
        x[2] = static_cast<PhiloxWord>(a >> 32) ^ x[3] ^ key1;
        x[1] = static_cast<std::uint32_t>(b);
        x[3] = static_cast<std::uint32_t>(a);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; ++i) counter.word[i] = static_cast<std::uint32_t>(x[i]);
    return counter;
}

// Limits of what a counter holds beside the 32-bit index of the block and the 32-bit step.
constexpr int kCandidateBits = 48;
constexpr int kVariableBits = 16;

// One stream of numbers: number i is half of block i / 2.
struct RandomStream {
    std::uint64_t seed;
    std::uint64_t candidate;  // below 2^48
    std::uint32_t step;
    std::uint32_t variable;  // below 2^16

    SMOACS_HD PhiloxBlock block(std::uint32_t index) const {
        const PhiloxBlock counter{{index, step, static_cast<std::uint32_t>(candidate),
                                   static_cast<std::uint32_t>(candidate >> 32) | variable << 16}};
        return philox4x32(counter, static_cast<std::uint32_t>(seed),
                          static_cast<std::uint32_t>(seed >> 32));
    }
};

struct Pair {
    double first, second;
};

// 53 random bits as a number in [0, 1).
SMOACS_HD double unit_interval(std::uint32_t high, std::uint32_t low) {
    // Through signed integers, which all instruction sets convert.
    const auto upper = static_cast<std::int32_t>(high >> 5);
    const auto lower = static_cast<std::int32_t>(low >> 6);
    return (upper * 67108864.0 + lower) * (1.0 / 9007199254740992.0);
}

// Numbers 2 * index and 2 * index + 1 of a stream, uniform in [0, 1).
SMOACS_HD Pair uniform_pair(const RandomStream& stream, std::uint32_t index) {
    const PhiloxBlock bits = stream.block(index);
    return {unit_interval(bits.word[0], bits.word[1]), unit_interval(bits.word[2], bits.word[3])};
}

// Numbers 2 * index and 2 * index + 1 of a stream, normally distributed (Box and Muller). Worked
// out in double precision by functions that give all devices the same bits.
SMOACS_HD Pair normal_pair(const RandomStream& stream, std::uint32_t index) {
    const Pair u = uniform_pair(stream, index);
    const double radius = sqrt(-2.0 * log_positive(1.0 - u.first));
    Pair direction;
    cos_sin(6.283185307179586 * u.second, &direction.first, &direction.second);
    return {radius * direction.first, radius * direction.second};
}

// To the output type. Rounding a uniform number to float could give 1, so its last bits are cut.
SMOACS_HD void convert_uniform(double value, double* to) {
    *to = value;
}
SMOACS_HD void convert_uniform(double value, float* to) {
    *to = static_cast<float>(floor(value * 16777216.0)) * (1.0f / 16777216.0f);
}

}  // namespace smoacs
