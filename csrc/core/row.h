// A row of numbers in memory, shared out over 32 lanes. On a GPU the lanes are the threads of a
// warp; on the CPU one thread goes over all of them, in loops that the compiler turns into vector
// code. Both run the same source, and sums add up in the same order.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace smoacs {

constexpr int kLanes = 32;

#ifdef __CUDACC__
constexpr int kPerWord = 1;
#else
constexpr int kPerWord = kLanes;
#endif

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

struct Sum {
    template <typename T>
    SMOACS_HD static void into(T& a, const T& b) {
        a = a + b;
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
    if constexpr (N == 2) {
        T all = lane[0];
        Op::into(all, lane[1]);
        return all;
    } else if constexpr (N == 4) {  // single numbers: two in a vector would travel through memory
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
