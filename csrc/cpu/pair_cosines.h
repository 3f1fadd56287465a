// CPU kernels of the cosines of bond pairs; core/pair_cosines.h has the formulas.
#pragma once

#include "core/pair_cosines.h"

namespace smoacs::cpu {

template <typename T>
void pair_cosines(const CosineJob<T>& job);

template <typename T>
void pair_cosines_backward(const CosineGradientJob<T>& job);

}  // namespace smoacs::cpu
