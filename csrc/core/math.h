// Functions without branches and library calls, so that loops over them become vector code, and so
// that all devices get the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/macros.h"

namespace smoacs {

constexpr double kLog2E = 1.4426950408889634;

template <typename To, typename From>
SMOACS_HD To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// a b + c, rounded once: the same everywhere, and one instruction where the processor has it.
SMOACS_HD float multiply_add(float a, float b, float c) {
    return fmaf(a, b, c);
}

SMOACS_HD double multiply_add(double a, double b, double c) {
    return fma(a, b, c);
}

// Largest |x| for which exp2_normal holds.
template <typename T>
constexpr T kLargestPower = sizeof(T) == sizeof(float) ? T(125.5) : T(1021.5);

// Numbers one by one, as exp2_normals takes them; U has their bits.
template <typename T>
struct Single {
    using Number = T;
    using V = T;
    using U = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    SMOACS_HD static V multiply_add(V a, V b, V c) { return smoacs::multiply_add(a, b, c); }
};

// Adding this rounds to an integer, which is then in the low bits of the sum: 1.5 * 2^23, or 2^52.
template <typename T>
constexpr T kRounder = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);

template <typename T>
constexpr int kExp2Terms = sizeof(T) == 4 ? 7 : 14;

// Coefficient of the polynomials of exp2_normals, the highest power first.
template <typename T>
SMOACS_HD constexpr T exp2_term(int j) {
    const float few[] = {1.5353562e-4f, 1.3398874e-3f, 9.618437e-3f, 5.5503324e-2f,
                         0.24022648f,   0.6931472f,    1.0f};
    const double many[] = {1.3691488853904128e-12, 2.5678435993488206e-11,
                           4.4455382718708116e-10, 7.054911620801123e-09,
                           1.01780860092397e-07,   1.321548679014431e-06,
                           1.5252733804059841e-05, 0.0001540353039338161,
                           0.0013333558146428443,  0.009618129107628477,
                           0.05550410866482158,    0.24022650695910072,
                           0.6931471805599453,     1.0};
    return sizeof(T) == 4 ? T(few[j]) : T(many[j]);
}

// Terms J and on. (In a loop over them GCC would see no vector code for loops around it.)
template <typename As, int J = 1, int N>
SMOACS_HD void add_exp2_terms(const typename As::V (&f)[N], typename As::V (&p)[N]) {
    constexpr auto term = exp2_term<typename As::Number>(J);
    SMOACS_UNROLLED
    for (int i = 0; i < N; ++i) p[i] = As::multiply_add(p[i], f[i], typename As::V{} + term);
    if constexpr (J + 1 < kExp2Terms<typename As::Number>) add_exp2_terms<As, J + 1>(f, p);
}

// N times 2^x for |x| <= 125.5 with a relative error below 1e-7. They take each step together, so
// that the waits of one are filled with the work of others.
//
// x is split into n + f with |f| <= 1/2, where the polynomial of degree 6 with the smallest
// relative error, among those that begin with 1, is good to 2e-9. For doubles, |x| <= 1021.5 and
// a relative error below 3e-16, it is the Taylor polynomial of degree 13, good to 4e-18.
template <typename As, int N>
SMOACS_HD void exp2_normals(typename As::V (&x)[N]) {
    using T = typename As::Number;
    using V = typename As::V;
    using U = typename As::U;
    constexpr bool is_float = sizeof(T) == 4;
    constexpr T highest = exp2_term<T>(0);
    const T shift = kRounder<T>;
    V f[N], p[N];
    U power[N];
    SMOACS_UNROLLED
    for (int i = 0; i < N; ++i) {
        const V shifted = x[i] + shift;
        f[i] = x[i] - (shifted - shift);
        p[i] = V{} + highest;
        power[i] = bit_cast<U>(shifted) << (is_float ? 23 : 52);
    }
    add_exp2_terms<As>(f, p);
    // n is added to the exponent field; the other bits of `shifted` are shifted out.
    SMOACS_UNROLLED
    for (int i = 0; i < N; ++i) x[i] = bit_cast<V>(bit_cast<U>(p[i]) + power[i]);
}

template <typename T>
SMOACS_HD T exp2_normal(T x) {
    T all[1] = {x};
    exp2_normals<Single<T>>(all);
    return all[0];
}

// N times 2^(x rate) for x rate <= 0: 0 from the lowest power on (minus infinity included). As
// exp2_normals, with the products inside of multiply-adds.
template <typename As, int N>
SMOACS_HD void exp2_products(typename As::V (&x)[N], typename As::V rate) {
    using T = typename As::Number;
    using V = typename As::V;
    using U = typename As::U;
    constexpr bool is_float = sizeof(T) == 4;
    constexpr T highest = exp2_term<T>(0);
    const T shift = kRounder<T>;
    const T lowest = shift - (kLargestPower<T> - T(0.5));
    V rounded[N], f[N], p[N];
    SMOACS_UNROLLED
    for (int i = 0; i < N; ++i) {
        rounded[i] = As::multiply_add(x[i], rate, V{} + shift);
        f[i] = As::multiply_add(x[i], rate, shift - rounded[i]);
        p[i] = V{} + highest;
    }
    add_exp2_terms<As>(f, p);
    SMOACS_UNROLLED
    for (int i = 0; i < N; ++i) {
        const U power = bit_cast<U>(rounded[i]) << (is_float ? 23 : 52);
        x[i] = rounded[i] < lowest ? V{} : bit_cast<V>(bit_cast<U>(p[i]) + power);
    }
}

template <typename T>
SMOACS_HD T exp2_nonpositive(T x, T rate = 1) {
    T all[1] = {x};
    exp2_products<Single<T>>(all, rate);
    return all[0];
}

// log(x) for normal numbers x > 0, to about one unit in the last place.
//
// x is split into 2^n (1 + f) with 1 + f between sqrt(1/2) and sqrt(2), and s = f / (2 + f) into
// the series log(1 + f) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), arranged so that its first term is f.
SMOACS_HD double log_positive(double x) {
    const std::uint64_t bits = bit_cast<std::uint64_t>(x);
    const std::uint64_t above = bits - 0x3fe6a09e667f3bcdu;  // sqrt(1/2)
    const std::uint64_t biased = (above + 0x3ff0000000000000u) >> 52;
    // As an integer below 2^52 in the low bits of 2^52.
    const double n = bit_cast<double>(biased | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);
    const double f = bit_cast<double>(bits - (above & 0xfff0000000000000u)) - 1.0;
    const double s = f / (2.0 + f);
    const double z = s * s;
    double p = z * (2.0 / 23) + (2.0 / 21);
    p = p * z + (2.0 / 19);
    p = p * z + (2.0 / 17);
    p = p * z + (2.0 / 15);
    p = p * z + (2.0 / 13);
    p = p * z + (2.0 / 11);
    p = p * z + (2.0 / 9);
    p = p * z + (2.0 / 7);
    p = p * z + (2.0 / 5);
    p = p * z + (2.0 / 3);
    const double half = 0.5 * f * f;
    const double low = n * 1.90821492927058770002e-10;
    return n * 6.93147180369123816490e-01 - ((half - (s * (half + p * z) + low)) - f);
}

// cos(x) and sin(x) for x from 0 to 2 pi, to about one unit in the last place: Taylor polynomials
// of what is left of x after the nearest multiple of pi / 2.
SMOACS_HD void cos_sin(double x, double* cosine, double* sine) {
    const double shift = kRounder<double>;
    const double shifted = x * 0.6366197723675814 + shift;
    const double n = shifted - shift;
    // pi / 2 in two parts: n times the first is exact.
    const double r = (x - n * 1.57079632673412561417) - n * 6.07710050650619224932e-11;
    const double z = r * r;
    double s = z * (1.0 / 355687428096000) - (1.0 / 1307674368000);
    s = s * z + (1.0 / 6227020800);
    s = s * z - (1.0 / 39916800);
    s = s * z + (1.0 / 362880);
    s = s * z - (1.0 / 5040);
    s = s * z + (1.0 / 120);
    s = s * z - (1.0 / 6);
    s = (s * z) * r + r;
    double c = z * (1.0 / 20922789888000) - (1.0 / 87178291200);
    c = c * z + (1.0 / 479001600);
    c = c * z - (1.0 / 3628800);
    c = c * z + (1.0 / 40320);
    c = c * z - (1.0 / 720);
    c = c * z + (1.0 / 24);
    c = (c * z) * z + (1.0 - 0.5 * z);
    const std::uint64_t quarter = bit_cast<std::uint64_t>(shifted);
    const bool odd = (quarter & 1) != 0;
    const std::uint64_t along = bit_cast<std::uint64_t>(odd ? s : c);
    const std::uint64_t across = bit_cast<std::uint64_t>(odd ? c : s);
    *cosine = bit_cast<double>(along ^ ((quarter + 1) & 2) << 62);
    *sine = bit_cast<double>(across ^ (quarter & 2) << 62);
}

}  // namespace smoacs
