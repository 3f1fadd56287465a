// CUDA kernels of the cosines of bond pairs, one thread per pair or bond; core/pair_cosines.h has
// the formulas. All addresses are on the device.
#pragma once

#include "core/pair_cosines.h"

namespace smoacs::cuda {

template <typename T>
void pair_cosines(const CosineJob<T>& job, std::uintptr_t stream);

template <typename T>
void pair_cosines_backward(const CosineGradientJob<T>& job, std::uintptr_t stream);

}  // namespace smoacs::cuda
