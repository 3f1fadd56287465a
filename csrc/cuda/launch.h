// Launches kernels, most of which do one piece of work per team of threads.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace smoacs::cuda {

constexpr int kThreadsPerBlock = 128;

template <typename... Parameters>
void launch_blocks(const char* name, void (*kernel)(Parameters...), std::int64_t blocks,
                   int threads, std::uintptr_t stream, const Parameters&... arguments) {
    if (blocks == 0) return;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = reinterpret_cast<cudaStream_t>(stream);
    const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments...);
    if (status != cudaSuccess) {
        throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(status));
    }
}

// Calls step(job, i) for i < n, in teams of `Size` threads (1, or a warp).
template <int Size, typename Job, typename Step>
__global__ void __launch_bounds__(kThreadsPerBlock) run_all(Job job, std::int64_t n, Step step) {
    const std::int64_t i = (blockIdx.x * std::int64_t(kThreadsPerBlock) + threadIdx.x) / Size;
    if (i < n) step(job, i);
}

template <int Size, typename Job, typename Step>
void launch(const char* name, const Job& job, std::int64_t n, const Step& step,
            std::uintptr_t stream) {
    launch_blocks(name, run_all<Size, Job, Step>,
                  (n * Size + kThreadsPerBlock - 1) / kThreadsPerBlock, kThreadsPerBlock, stream,
                  job, n, step);
}

}  // namespace smoacs::cuda
