// Turns CUDA errors into exceptions.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace smoacs::cuda {

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) {
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
    }
}

// Call right after a kernel launch.
inline void check_launch(const char* kernel) {
    check(cudaGetLastError(), kernel);
}

}  // namespace smoacs::cuda
