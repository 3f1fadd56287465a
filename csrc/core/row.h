// A row of up to 128 numbers, shared out over 32 lanes. On a GPU the lanes are the threads of a
// warp and each holds 4 numbers; on the CPU one thread holds all 128, in loops that the compiler
// turns into vector code. Both run the same source, and sums add up in the same order.
#pragma once

#include <cstdint>
#include <cstring>

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

#ifndef __CUDACC__
// A table, because not every instruction set can shift each lane by another count.
alignas(64) constexpr std::uint32_t kLaneBit[kLanes] = {
    1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,
    1u << 8,  1u << 9,  1u << 10, 1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15,
    1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21, 1u << 22, 1u << 23,
    1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};
#endif

// The bit of a mask's word that belongs to number j.
SMOACS_LANES bool bit(std::uint32_t word, int j) {
#ifdef __CUDACC__
    return (word >> lane_of(j) & 1u) != 0;
#else
    return (word & kLaneBit[j]) != 0;
#endif
}

// Fills a row from an array of `size` numbers, with zeros past its end.
template <typename T>
SMOACS_LANES void load(const T* from, int size, Row<T>& row) {
    for (int w = 0; w < kWords; ++w) {
        const T* word = from + w * kLanes;
        const int rest = size - w * kLanes;
        if (rest >= kLanes) {
            for (int j = 0; j < kPerWord; ++j) row[w * kPerWord + j] = word[lane_of(j)];
        } else {
            for (int j = 0; j < kPerWord; ++j) {
                row[w * kPerWord + j] = lane_of(j) < rest ? word[lane_of(j)] : T(0);
            }
        }
    }
}

template <typename T>
SMOACS_LANES void store(const Row<T>& row, int size, T* to) {
    for (int w = 0; w < kWords; ++w) {
        T* word = to + w * kLanes;
        const int rest = size - w * kLanes;
        if (rest >= kLanes) {
            for (int j = 0; j < kPerWord; ++j) word[lane_of(j)] = row[w * kPerWord + j];
        } else {
            for (int j = 0; j < kPerWord && lane_of(j) < rest; ++j) {
                word[lane_of(j)] = row[w * kPerWord + j];
            }
        }
    }
}

struct Sum {
    template <typename T>
    SMOACS_HD static void into(T& a, const T& b) {
        a = a + b;
    }
};

struct Max {
    template <typename T>
    SMOACS_HD static void into(T& a, const T& b) {
        a = a > b ? a : b;
    }
};

#ifndef __CUDACC__
// N numbers that the compiler keeps in one register, or in as few as they need.
template <typename T, int N>
struct Pack {
    typedef T type __attribute__((vector_size(N * sizeof(T))));
};
#endif

// One number of all lanes, known to all of them: lane j is combined with lane j + N / 2, and so on.
template <typename Op, int N = kLanes, typename T>
SMOACS_LANES T fold(const T* lane) {
#ifdef __CUDACC__
    T value = lane[0];
    for (int step = N / 2; step > 0; step /= 2) {
        Op::into(value, __shfl_xor_sync(0xffffffffu, value, step));
    }
    return value;
#else
    if constexpr (N == 4) {  // single numbers: two in a vector would travel through memory
        T even = lane[0], odd = lane[1];
        Op::into(even, lane[2]);
        Op::into(odd, lane[3]);
        Op::into(even, odd);
        return even;
    } else {
        typename Pack<T, N / 2>::type low, high;
        memcpy(&low, lane, sizeof low);
        memcpy(&high, lane + N / 2, sizeof high);
        Op::into(low, high);
        T half[N / 2];
        memcpy(half, &low, sizeof low);
        return fold<Op, N / 2>(half);
    }
#endif
}

// Sum or largest of the numbers f(w, j) of a row, known to all lanes.
template <typename Op, typename F>
SMOACS_LANES auto reduce(F&& f) {
    decltype(f(0, 0)) lane[kPerWord];
    for (int j = 0; j < kPerWord; ++j) {
        auto all = f(0, j);
        for (int w = 1; w < kWords; ++w) Op::into(all, f(w, j));
        lane[j] = all;
    }
    return fold<Op>(lane);
}

// --- Rows of any length, in memory ---------------------------------------------------------------

// Calls f(column, lane) for the columns of this thread, in ascending order.
template <typename F>
SMOACS_LANES void for_columns(std::int64_t n, F&& f) {
    const std::int64_t whole = n - n % kLanes;
    for (std::int64_t c = 0; c < whole; c += kLanes) {
        for (int j = 0; j < kPerWord; ++j) f(c + lane_of(j), j);
    }
    const int rest = static_cast<int>(n - whole);
    if (rest == 0) return;
    for (int j = 0; j < kPerWord; ++j) {
        if (lane_of(j) < rest) f(whole + lane_of(j), j);
    }
}

// Sum of f(column) over all columns, known to all lanes.
template <typename T, typename F>
SMOACS_LANES T sum_columns(std::int64_t n, F&& f) {
    T lane[kPerWord];
    for (int j = 0; j < kPerWord; ++j) lane[j] = T(0);
    for_columns(n, [&](std::int64_t c, int j) { lane[j] += f(c); });
    return fold<Sum>(lane);
}

}  // namespace smoacs
