// exp for softmax: arguments are never positive.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace smoacs {

template <typename To, typename From>
SMOACS_HD To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// exp(x) for x <= 0 (minus infinity included) with a relative error below 1.5e-7; 0 below -87.
// No branch and no library call, so that loops over it become vector code.
//
// x is split into n ln 2 + r with |r| <= ln 2 / 2, where the Taylor polynomial of degree 7 is good
// to 6e-9.
SMOACS_HD float exp_nonpositive(float x) {
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits of the sum.
    const float shift = 12582912.0f;
    const float shifted = x * 1.44269504f + shift;
    const float n = shifted - shift;
    // ln 2 in two parts: n times the first is exact.
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = r * (1.0f / 5040) + (1.0f / 720);
    p = p * r + (1.0f / 120);
    p = p * r + (1.0f / 24);
    p = p * r + (1.0f / 6);
    p = p * r + 0.5f;
    p = (p * r) * r + r + 1.0f;
    // The exponent field of 2^n; the other bits of `shifted` are shifted out.
    const float power = bit_cast<float>((bit_cast<std::uint32_t>(shifted) << 23) + 0x3f800000u);
    const float value = p * power;
    return x < -87.0f ? 0.0f : value;
}

// The same with a relative error below 3e-16; 0 below -708. The Taylor polynomial of degree 13 is
// good to 4e-18.
SMOACS_HD double exp_nonpositive(double x) {
    const double shift = 6755399441055744.0;  // 1.5 * 2^52
    const double shifted = x * 1.4426950408889634 + shift;
    const double n = shifted - shift;
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double p = r * (1.0 / 6227020800) + (1.0 / 479001600);
    p = p * r + (1.0 / 39916800);
    p = p * r + (1.0 / 3628800);
    p = p * r + (1.0 / 362880);
    p = p * r + (1.0 / 40320);
    p = p * r + (1.0 / 5040);
    p = p * r + (1.0 / 720);
    p = p * r + (1.0 / 120);
    p = p * r + (1.0 / 24);
    p = p * r + (1.0 / 6);
    p = p * r + 0.5;
    p = (p * r) * r + r + 1.0;
    const double power =
        bit_cast<double>((bit_cast<std::uint64_t>(shifted) << 52) + 0x3ff0000000000000u);
    const double value = p * power;
    return x < -708.0 ? 0.0 : value;
}

}  // namespace smoacs
