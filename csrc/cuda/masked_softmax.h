// CUDA kernels of the masked temperature softmax; core/softmax.h has the formulas.
#pragma once

#include <cstdint>

#include "core/softmax.h"

namespace smoacs::cuda {

// Writes composition (S, Z), weights (C, K) and kept (S, K + 2), all on the device; NaN where the
// input is at fault.
template <typename T>
void masked_softmax(const SoftmaxBatch<T>& batch, bool paper, T* composition, T* weights, T* kept,
                    std::uintptr_t stream);

// Gradients from those of both outputs of the forward, which it also takes; `dots` (S, K) is
// scratch.
template <typename T>
void masked_softmax_backward(const SoftmaxBatch<T>& batch, bool paper, const T* composition,
                             const T* weights, const T* kept, const T* grad_composition,
                             const T* grad_weights, T* dots, T* grad_element_logits,
                             T* grad_pattern_logits, std::uintptr_t stream);

}  // namespace smoacs::cuda
