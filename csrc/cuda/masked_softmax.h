// CUDA kernels of the masked temperature softmax; core/softmax.h has the formulas.
#pragma once

#include <cstdint>

#include "core/softmax.h"

namespace smoacs::cuda {

// Writes composition (S, Z) and weights (C, K), all on the device, and lowers *fault (on the
// device, from kNoFault) to the smallest fault found.
template <typename T>
void masked_softmax(const SoftmaxBatch<T>& batch, bool paper, T* composition, T* weights,
                    std::int64_t* fault, std::uintptr_t stream);

// Gradients from those of both outputs; `weights` are the forward's, `dots` (S, K) is scratch.
template <typename T>
void masked_softmax_backward(const SoftmaxBatch<T>& batch, bool paper, const T* weights,
                             const T* grad_composition, const T* grad_weights, T* dots,
                             T* grad_element_logits, T* grad_pattern_logits, std::uintptr_t stream);

}  // namespace smoacs::cuda
