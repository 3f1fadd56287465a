// The masked softmax of some sites or crystals on one thread, compiled once per instruction set.
#pragma once

#include "core/softmax.h"

namespace smoacs::cpu {

template <typename T>
struct SiteKernels {
    // Writes the weights of all crystals' patterns. This and the next return the smallest fault, or
    // kNoFault.
    std::int64_t (*weigh)(const SoftmaxBatch<T>& batch, bool paper, T* weights);
    // Writes rows of the composition, and what the backward pass needs (S, K + 2).
    std::int64_t (*forward)(const SoftmaxBatch<T>& batch, bool paper, std::int64_t first,
                            std::int64_t last, const T* weights, T* composition, T* kept);
    void (*backward)(const SoftmaxBatch<T>& batch, bool paper, std::int64_t first,
                     std::int64_t last, const T* composition, const T* weights, const T* kept,
                     const T* grad_composition, T* dots, T* grad_logits);
    // Writes the gradients to the pattern logits of some crystals, whose sites' dots are known.
    void (*pattern_gradients)(const SoftmaxBatch<T>& batch, bool paper, std::int64_t first,
                              std::int64_t last, const T* weights, const T* dots,
                              const T* grad_weights, T* grad_logits);
};

template <typename T>
SiteKernels<T> site_kernels_baseline();
template <typename T>
SiteKernels<T> site_kernels_avx2();
template <typename T>
SiteKernels<T> site_kernels_avx512();

}  // namespace smoacs::cpu
