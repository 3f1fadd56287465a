// CPU kernels of the masked temperature softmax; core/softmax.h has the formulas.
#pragma once

#include "core/softmax.h"

namespace smoacs::cpu {

// Writes composition (S, Z), weights (C, K) and kept (S, K + 2). Returns the smallest fault, or
// kNoFault.
template <typename T>
std::int64_t masked_softmax(const SoftmaxBatch<T>& batch, bool paper, T* composition, T* weights,
                            T* kept);

// Gradients from those of both outputs of the forward, which it also takes; `dots` (S, K) is
// scratch.
template <typename T>
void masked_softmax_backward(const SoftmaxBatch<T>& batch, bool paper, const T* composition,
                             const T* weights, const T* kept, const T* grad_composition,
                             const T* grad_weights, T* dots, T* grad_element_logits,
                             T* grad_pattern_logits);

}  // namespace smoacs::cpu
