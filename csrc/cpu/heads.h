// Arithmetic on the heads of an attention, eight at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"
#include "core/math.h"
#include "core/row.h"

namespace smoacs::cpu {

constexpr int kHeads = 8;  // one vector of doubles

// A number for each of eight heads. (In arrays the compiler would not keep sums in registers.)
template <typename T>
using Heads = typename Pack<T, kHeads>::type;

template <typename T>
SMOACS_HD Heads<T> broadcast(T value) {
    Heads<T> out;
    for (int h = 0; h < kHeads; ++h) out[h] = value;
    return out;
}

template <typename T>
SMOACS_HD Heads<T> load(const T* from) {
    Heads<T> out;
    memcpy(&out, from, sizeof out);
    return out;
}

template <typename T>
SMOACS_HD void store(const Heads<T>& from, T* to) {
    memcpy(to, &from, sizeof from);
}

// a b + c
template <typename H>
SMOACS_HD H add_product(const H& a, const H& b, const H& c) {
    H out;
    for (int h = 0; h < kHeads; ++h) out[h] = multiply_add(a[h], b[h], c[h]);
    return out;
}

struct Larger {
    template <typename T>
    SMOACS_HD static void into(T& a, const T& b) {
        a = a > b ? a : b;
    }
};

template <typename T>
SMOACS_HD T largest(const Heads<T>& x) {
    T lane[kHeads];
    memcpy(lane, &x, sizeof lane);
    return fold<Larger, kHeads>(lane);
}

template <typename T>
SMOACS_HD T total(const Heads<T>& x) {
    T lane[kHeads];
    memcpy(lane, &x, sizeof lane);
    return fold<Sum, kHeads>(lane);
}

// Powers of 2 below this one count as nothing: 1.5e-11 in single precision, 8e-22 in double.
template <typename T>
constexpr T kLeastPower = sizeof(T) == sizeof(float) ? T(-36) : T(-70);

template <typename T>
SMOACS_HD T exp2_or_nothing(T x) {
    const T power = exp2_normal(x);  // without a branch, so that loops become vector code
    return x < kLeastPower<T> ? T(0) : power;
}

template <typename T>
SMOACS_HD Heads<T> exp2_or_nothing(const Heads<T>& x) {
    T lane[kHeads];
    memcpy(lane, &x, sizeof lane);
    for (int h = 0; h < kHeads; ++h) lane[h] = exp2_or_nothing(lane[h]);
    Heads<T> out;
    memcpy(&out, lane, sizeof lane);
    return out;
}

// Eight heads of rows (D, H) in memory.
template <typename T>
struct Rows {
    const T* first;
    std::int64_t stride, heads;  // from row to row, from number to number

    SMOACS_HD Heads<T> at(std::int64_t row, std::int64_t d) const {
        return load(first + row * stride + d * heads);
    }

    // Sum over d of a[d] times the row's.
    SMOACS_HD Heads<T> dot(const Heads<T>* a, std::int64_t row, std::int64_t head_width) const {
        Heads<T> even = broadcast(T(0)), odd = even;  // need not wait for each other
        std::int64_t d = 0;
        for (; d + 2 <= head_width; d += 2) {
            even = add_product(a[d], at(row, d), even);
            odd = add_product(a[d + 1], at(row, d + 1), odd);
        }
        if (d < head_width) even = add_product(a[d], at(row, d), even);
        return even + odd;
    }

    // Adds the first n rows, each times its factor, to sums (D), four numbers at a time.
    template <typename Factor>
    SMOACS_HD void add_to(Heads<T>* sums, std::int64_t n_rows, Factor&& factor,
                          std::int64_t head_width) const {
        std::int64_t d = 0;
        for (; d + 4 <= head_width; d += 4) {
            Heads<T> s0 = sums[d], s1 = sums[d + 1], s2 = sums[d + 2], s3 = sums[d + 3];
            for (std::int64_t row = 0; row < n_rows; ++row) {
                const Heads<T> times = factor(row);
                s0 = add_product(times, at(row, d), s0);
                s1 = add_product(times, at(row, d + 1), s1);
                s2 = add_product(times, at(row, d + 2), s2);
                s3 = add_product(times, at(row, d + 3), s3);
            }
            sums[d] = s0, sums[d + 1] = s1, sums[d + 2] = s2, sums[d + 3] = s3;
        }
        for (; d < head_width; ++d) {
            for (std::int64_t row = 0; row < n_rows; ++row) {
                sums[d] = add_product(factor(row), at(row, d), sums[d]);
            }
        }
    }
};

}  // namespace smoacs::cpu
