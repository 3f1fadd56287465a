// As much of CUDA as csrc/cuda needs, on the CPU: the C++ unit tests compile the kernels with it
// instead of nvcc. Blocks run one after the other, their threads as fibers in random order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3() = default;
    explicit dim3(unsigned x) : x(x) {}
};

extern dim3 threadIdx, blockIdx, blockDim;  // of the running thread

namespace cuda_on_host {

void run(unsigned n_blocks, unsigned n_threads, const std::function<void()>& kernel);

// What the lane `from` of the running thread's warp passes at the same time.
std::uint64_t exchange(std::uint64_t value, unsigned from);

template <typename T>
T exchange_any(T value, unsigned from) {
    std::uint64_t bits = 0;
    static_assert(sizeof value <= sizeof bits, "lanes exchange up to 8 bytes");
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, from);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace cuda_on_host

void __syncthreads();

template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
    return cuda_on_host::exchange_any(value, static_cast<unsigned>(lane));
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int step) {
    return cuda_on_host::exchange_any(value, (threadIdx.x % 32) ^ static_cast<unsigned>(step));
}

template <typename T>
T __shfl_up_sync(unsigned, T value, int step) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    return cuda_on_host::exchange_any(value,
                                      static_cast<unsigned>(lane < step ? lane : lane - step));
}

template <typename T>
void atomicMin(T* to, T value) {
    *to = std::min(*to, value);
}

template <typename T>
void atomicMax(T* to, T value) {
    *to = std::max(*to, value);
}

inline long long __double_as_longlong(double value) {
    long long bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// --- Launches ------------------------------------------------------------------------------------

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };

inline const char* cudaGetErrorString(cudaError_t) {
    return "";
}

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

template <typename... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Parameters&... arguments) {
    cuda_on_host::run(config->gridDim.x, config->blockDim.x, [&] { kernel(arguments...); });
    return cudaSuccess;
}
