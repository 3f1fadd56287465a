// The logistic function and SiLU of one number, with their slopes; shared by CPU and GPU. Without
// branches, so that loops over them become vector code.
#pragma once

#include "core/macros.h"
#include "core/math.h"

namespace smoacs {

template <typename T>
SMOACS_HD T sigmoid(T x) {
    const T tail = exp_nonpositive(x < T(0) ? x : -x);
    return (x < T(0) ? tail : T(1)) / (T(1) + tail);
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
