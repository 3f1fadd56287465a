#include "cpu/activation.h"

#include <type_traits>

#include "core/activation.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Fewer numbers than this are not worth waking another thread.
constexpr std::int64_t kNumbersPerThread = 1 << 14;

template <Activation Kind, typename T>
SMOACS_HD T value_at(T x) {
    if constexpr (Kind == Activation::sigmoid) return sigmoid(x);
    if constexpr (Kind == Activation::silu) return silu(x);
    if constexpr (Kind == Activation::softplus) return softplus(x);
}

template <Activation Kind, typename T>
SMOACS_HD T slope_at(T x) {
    if constexpr (Kind == Activation::sigmoid) return sigmoid_slope(sigmoid(x));
    if constexpr (Kind == Activation::silu) return silu_slope(x);
    if constexpr (Kind == Activation::softplus) return softplus_slope(x);
}

template <Activation Kind, typename T>
SMOACS_CLONES void values(const T* __restrict__ x, T* __restrict__ out, std::int64_t begin,
                          std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[i] = value_at<Kind>(x[i]);
}

template <Activation Kind, typename T>
SMOACS_CLONES void slopes(const T* __restrict__ x, const T* __restrict__ grad,
                          T* __restrict__ grad_x, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) grad_x[i] = grad[i] * slope_at<Kind>(x[i]);
}

// Calls run(kind, begin, end) for shares of n numbers, with the kind as a type.
template <typename Run>
void share_numbers(Activation kind, std::int64_t n, Run&& run) {
    const auto as_type = [&](auto of) {
        share(n, num_threads(n / kNumbersPerThread),
              [&](std::int64_t begin, std::int64_t end) { run(of, begin, end); });
    };
    switch (kind) {
        case Activation::sigmoid:
            return as_type(std::integral_constant<Activation, Activation::sigmoid>());
        case Activation::silu:
            return as_type(std::integral_constant<Activation, Activation::silu>());
        case Activation::softplus:
            return as_type(std::integral_constant<Activation, Activation::softplus>());
    }
}

}  // namespace

template <typename T>
void activate(Activation kind, std::int64_t n, const T* x, T* out) {
    share_numbers(kind, n, [&](auto of, std::int64_t begin, std::int64_t end) {
        values<of()>(x, out, begin, end);
    });
}

template <typename T>
void activate_backward(Activation kind, std::int64_t n, const T* x, const T* grad, T* grad_x) {
    share_numbers(kind, n, [&](auto of, std::int64_t begin, std::int64_t end) {
        slopes<of()>(x, grad, grad_x, begin, end);
    });
}

#define SMOACS_INSTANTIATE(T)                                       \
    template void activate(Activation, std::int64_t, const T*, T*); \
    template void activate_backward(Activation, std::int64_t, const T*, const T*, T*);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
