// CPU kernels of the normalised SiLU with residual; core/norm_silu.h has the formulas.
#pragma once

#include "core/norm_silu.h"

namespace smoacs::cpu {

template <typename T>
void norm_silu(const NormJob<T>& job);

template <typename T>
void norm_silu_backward(const NormGradientJob<T>& job);

// The same by so many threads.
template <typename T>
void norm_silu(const NormJob<T>& job, int threads);

template <typename T>
void norm_silu_backward(const NormGradientJob<T>& job, int threads);

}  // namespace smoacs::cpu
