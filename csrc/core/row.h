// A row of up to 128 numbers, shared out over 32 lanes. On a GPU the lanes are the threads of a
// warp and each holds 4 numbers; on the CPU one thread holds all 128, in loops that the compiler
// turns into vector code. Both run the same source, and sums add up in the same order.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace smoacs {

constexpr int kLanes = 32;
constexpr int kWords = 4;  // a row's mask: bit z % 32 of word z / 32
constexpr int kRowSize = kLanes * kWords;

#ifdef __CUDACC__
constexpr int kPerWord = 1;
#else
constexpr int kPerWord = kLanes;
#endif
constexpr int kHeld = kWords * kPerWord;

// The part of a row that this thread holds: number i = w * kPerWord + j has position
// w * 32 + lane_of(j).
template <typename T>
struct Row {
    alignas(kPerWord == 1 ? alignof(T) : 64) T held[kHeld];
    SMOACS_LANES T& operator[](int i) { return held[i]; }
    SMOACS_LANES T operator[](int i) const { return held[i]; }
};

SMOACS_LANES int lane_of(int j) {
#ifdef __CUDACC__
    return j + threadIdx.x % kLanes;
#else
    return j;
#endif
}

// True for one lane: writes of single numbers.
SMOACS_LANES bool is_first_lane() {
    return lane_of(0) == 0;
}

SMOACS_LANES bool bit(std::uint32_t word, int j) {
    return (word >> lane_of(j) & 1u) != 0;
}

// Fills a row from an array of `size` numbers, with zeros past its end.
template <typename T>
SMOACS_LANES void load(const T* from, int size, Row<T>& row) {
    for (int w = 0; w < kWords; ++w) {
        for (int j = 0; j < kPerWord; ++j) {
            const int z = w * kLanes + lane_of(j);
            row[w * kPerWord + j] = z < size ? from[z] : T(0);
        }
    }
}

template <typename T>
SMOACS_LANES void store(const Row<T>& row, int size, T* to) {
    for (int w = 0; w < kWords; ++w) {
        for (int j = 0; j < kPerWord; ++j) {
            const int z = w * kLanes + lane_of(j);
            if (z < size) to[z] = row[w * kPerWord + j];
        }
    }
}

template <typename T>
SMOACS_HD T larger(T a, T b) {
    return a > b ? a : b;
}

// Largest of a row, known to all lanes.
template <typename T>
SMOACS_LANES T max_of(const Row<T>& row) {
    T lane[kPerWord];
    for (int j = 0; j < kPerWord; ++j) lane[j] = row[j];
    for (int w = 1; w < kWords; ++w) {
        for (int j = 0; j < kPerWord; ++j) lane[j] = larger(lane[j], row[w * kPerWord + j]);
    }
    for (int step = kLanes / 2; step > 0; step /= 2) {
#ifdef __CUDACC__
        lane[0] = larger(lane[0], __shfl_xor_sync(0xffffffffu, lane[0], step));
#else
        for (int j = 0; j < step; ++j) lane[j] = larger(lane[j], lane[j + step]);
#endif
    }
    return lane[0];
}

// Sum of a row, known to all lanes.
template <typename T>
SMOACS_LANES T sum_of(const Row<T>& row) {
    T lane[kPerWord];
    for (int j = 0; j < kPerWord; ++j) lane[j] = row[j];
    for (int w = 1; w < kWords; ++w) {
        for (int j = 0; j < kPerWord; ++j) lane[j] += row[w * kPerWord + j];
    }
    for (int step = kLanes / 2; step > 0; step /= 2) {
#ifdef __CUDACC__
        lane[0] += __shfl_xor_sync(0xffffffffu, lane[0], step);
#else
        for (int j = 0; j < step; ++j) lane[j] += lane[j + step];
#endif
    }
    return lane[0];
}

template <typename T>
SMOACS_LANES T dot(const Row<T>& a, const Row<T>& b) {
    Row<T> product;
    for (int i = 0; i < kHeld; ++i) product[i] = a[i] * b[i];
    return sum_of(product);
}

}  // namespace smoacs
