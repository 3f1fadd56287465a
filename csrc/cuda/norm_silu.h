// CUDA kernels of the normalised SiLU with residual, one warp per row; core/norm_silu.h has the
// formulas. All addresses are on the device.
#pragma once

#include "core/norm_silu.h"

namespace smoacs::cuda {

template <typename T>
void norm_silu(const NormJob<T>& job, std::uintptr_t stream);

template <typename T>
void norm_silu_backward(const NormGradientJob<T>& job, std::uintptr_t stream);

}  // namespace smoacs::cuda
