#include "cpu/activation.h"

#include "core/activation.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Fewer numbers than this are not worth waking another thread.
constexpr std::int64_t kNumbersPerThread = 1 << 14;

struct Sigmoid {
    template <typename T>
    SMOACS_HD static T value(T x) {
        return sigmoid(x);
    }
    template <typename T>
    SMOACS_HD static T slope(T x) {
        return sigmoid_slope(sigmoid(x));
    }
};

struct Silu {
    template <typename T>
    SMOACS_HD static T value(T x) {
        return silu(x);
    }
    template <typename T>
    SMOACS_HD static T slope(T x) {
        return silu_slope(x);
    }
};

struct Softplus {
    template <typename T>
    SMOACS_HD static T value(T x) {
        return softplus(x);
    }
    template <typename T>
    SMOACS_HD static T slope(T x) {
        return softplus_slope(x);
    }
};

template <typename F, typename T>
SMOACS_CLONES void values(const T* __restrict__ x, T* __restrict__ out, std::int64_t begin,
                          std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[i] = F::value(x[i]);
}

template <typename F, typename T>
SMOACS_CLONES void slopes(const T* __restrict__ x, const T* __restrict__ grad,
                          T* __restrict__ grad_x, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) grad_x[i] = grad[i] * F::slope(x[i]);
}

template <typename Run>
void run(Activation kind, Run&& run) {
    switch (kind) {
        case Activation::sigmoid:
            return run(Sigmoid{});
        case Activation::silu:
            return run(Silu{});
        case Activation::softplus:
            return run(Softplus{});
    }
}

}  // namespace

template <typename T>
void activate(Activation kind, std::int64_t n, const T* x, T* out) {
    run(kind, [&](auto f) {
        share(n, num_threads(n / kNumbersPerThread), [&](std::int64_t begin, std::int64_t end) {
            values<decltype(f)>(x, out, begin, end);
        });
    });
}

template <typename T>
void activate_backward(Activation kind, std::int64_t n, const T* x, const T* grad, T* grad_x) {
    run(kind, [&](auto f) {
        share(n, num_threads(n / kNumbersPerThread), [&](std::int64_t begin, std::int64_t end) {
            slopes<decltype(f)>(x, grad, grad_x, begin, end);
        });
    });
}

#define SMOACS_INSTANTIATE(T)                                       \
    template void activate(Activation, std::int64_t, const T*, T*); \
    template void activate_backward(Activation, std::int64_t, const T*, const T*, T*);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
