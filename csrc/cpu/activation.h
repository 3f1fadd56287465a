// Activations of every number of an array; core/activation.h has the formulas.
#pragma once

#include <cstdint>

namespace smoacs::cpu {

enum class Activation { sigmoid, silu, softplus };

template <typename T>
void activate(Activation kind, std::int64_t n, const T* x, T* out);

// Gradients to x from those to the results.
template <typename T>
void activate_backward(Activation kind, std::int64_t n, const T* x, const T* grad, T* grad_x);

}  // namespace smoacs::cpu
