// The logistic function and SiLU of one number, with their slopes; shared by CPU and GPU. Without
// branches, so that loops over them become vector code.
#pragma once

#include "core/macros.h"
#include "core/math.h"

namespace smoacs {

// 1 / (1 + exp(-x)). Beyond the largest power it stays as it is there; NaN gives NaN.
template <typename T>
SMOACS_HD T sigmoid(T x) {
    const T power = x * T(-1.4426950408889634);
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

}  // namespace smoacs
