// Threads that work on one atom together: the 32 of a warp on a GPU, one alone on the CPU. Code on
// top of it is the same on both, so that the CPU can test what the GPU runs.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace smoacs {

struct Alone {
    static constexpr int size = 1;
    SMOACS_HD static int rank() { return 0; }
    template <typename T>
    SMOACS_HD static T sum(T value) {
        return value;
    }
    SMOACS_HD static double max(double value) { return value; }
    SMOACS_HD static double min(double value) { return value; }
    // Sum over the threads of lower rank.
    SMOACS_HD static int before(int) { return 0; }
};

#ifdef __CUDACC__

// All 32 threads must call these together.
struct Warp {
    static constexpr int size = 32;
    static constexpr unsigned all = 0xffffffffu;

    __device__ static int rank() { return threadIdx.x % size; }

    template <typename T>
    __device__ static T sum(T value) {
        for (int step = size / 2; step > 0; step /= 2) value += __shfl_xor_sync(all, value, step);
        return value;
    }
    __device__ static double max(double value) {
        for (int step = size / 2; step > 0; step /= 2) {
            value = fmax(value, __shfl_xor_sync(all, value, step));
        }
        return value;
    }
    __device__ static double min(double value) {
        for (int step = size / 2; step > 0; step /= 2) {
            value = fmin(value, __shfl_xor_sync(all, value, step));
        }
        return value;
    }
    __device__ static int before(int value) {
        int sum = value;
        for (int step = 1; step < size; step *= 2) {
            const int other = __shfl_up_sync(all, sum, step);
            if (rank() >= step) sum += other;
        }
        return sum - value;
    }
};

#endif

}  // namespace smoacs
