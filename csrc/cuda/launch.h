// Runs one piece of work per team of threads.
#pragma once

#include <cstdint>

#include "cuda/check.h"

namespace smoacs::cuda {

constexpr int kThreadsPerBlock = 128;

// Calls step(job, i) for i < n, in teams of `Size` threads (1, or a warp).
template <int Size, typename Job, typename Step>
__global__ void __launch_bounds__(kThreadsPerBlock) run_all(Job job, std::int64_t n, Step step) {
    const std::int64_t i = (blockIdx.x * std::int64_t(kThreadsPerBlock) + threadIdx.x) / Size;
    if (i < n) step(job, i);
}

template <int Size, typename Job, typename Step>
void launch(const char* name, const Job& job, std::int64_t n, const Step& step,
            std::uintptr_t stream) {
    if (n == 0) return;
    const std::int64_t blocks = (n * Size + kThreadsPerBlock - 1) / kThreadsPerBlock;
    run_all<Size><<<static_cast<unsigned>(blocks), kThreadsPerBlock, 0,
                    reinterpret_cast<cudaStream_t>(stream)>>>(job, n, step);
    check_launch(name);
}

}  // namespace smoacs::cuda
