// CPU kernels for random numbers and mutation; core/resample.h has the arithmetic.
#pragma once

#include "core/resample.h"

namespace smoacs::cpu {

// Runs op over every pair of numbers of every crystal. Op is one of Fill<T,
// Normal> and Resample<T>.
template <typename Op>
void for_each_pair(const RandomBatch& batch, const Op& op);

}  // namespace smoacs::cpu
