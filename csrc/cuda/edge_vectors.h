// The steps of core/edge_vector_steps.h as CUDA kernels; all addresses are on the device.
#pragma once

#include "core/edge_vector_steps.h"

namespace smoacs::cuda {

template <typename T>
void edge_vectors(const EdgeVectorJob<T>& job, T* out, std::uintptr_t stream);

template <typename T>
void edge_gradients(const EdgeGradientJob<T>& job, std::uintptr_t stream);

}  // namespace smoacs::cuda
