// The logistic function, SiLU and softplus of one number, with their slopes; shared by CPU and GPU.
// Without branches, so that loops over them become vector code.
#pragma once

#include "core/macros.h"
#include "core/math.h"

namespace smoacs {

// 1 / (1 + exp(-x)). Beyond the largest power it stays as it is there; NaN gives NaN.
template <typename T>
SMOACS_HD T sigmoid(T x) {
    const T power = x * T(-kLog2E);
    const T most = kLargestPower<T>;
    const T above = -most > power ? -most : power;
    return T(1) / (T(1) + exp2_normal(most < above ? most : above));
}

// Slope of sigmoid where its value is `gate`.
template <typename T>
SMOACS_HD T sigmoid_slope(T gate) {
    return gate * (T(1) - gate);
}

template <typename T>
SMOACS_HD T silu(T x) {
    return x * sigmoid(x);
}

template <typename T>
SMOACS_HD T silu_slope(T x) {
    const T gate = sigmoid(x);
    return gate + x * sigmoid_slope(gate);
}

// log(1 + x) for x from 0 to 1, to about one unit in the last place: with s = x / (2 + x) it is
// 2 (s + s^3 / 3 + s^5 / 5 + ...).
template <typename T>
SMOACS_HD T log_1_plus(T x) {
    constexpr int kTerms = sizeof(T) == sizeof(float) ? 8 : 17;
    const T s = x / (T(2) + x), z = s * s;
    T sum = T(1) / T(2 * kTerms - 1);
    for (int i = kTerms - 2; i > 0; --i) sum = multiply_add(sum, z, T(1) / T(2 * i + 1));
    return T(2) * multiply_add(s * z, sum, s);
}

// log(1 + exp(x)), beyond 20 the number itself, as torch has it. NaN gives NaN.
template <typename T>
SMOACS_HD T softplus(T x) {
    const T most = kLargestPower<T>;
    const T size = x < T(0) ? -x : x;
    const T power = size * T(kLog2E);
    const T above = log_1_plus(exp2_normal(-(most < power ? most : power)));
    return x > T(20) ? x : (x > T(0) ? x : T(0)) + above;
}

template <typename T>
SMOACS_HD T softplus_slope(T x) {
    return x > T(20) ? T(1) : sigmoid(x);
}

}  // namespace smoacs
