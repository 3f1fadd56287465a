// Rows of a table whose row k belongs to the number low + k step, between them the polynomial
// through the six rows around; shared by CPU and GPU. Gradients are those of the polynomial.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/row.h"

namespace smoacs {

constexpr int kStencil = 6;

template <typename T>
struct TableJob {
    std::int64_t n_values, n_knots, n_columns;
    double low, step;
    const T* table;   // (K, F)
    const T* values;  // (N)
};

// The rows of the table that a number lies between, and its place among them.
struct TablePlace {
    std::int64_t first;  // row of the first of the six
    double t;            // distance to it in steps
};

// Numbers beyond the middle of the outermost six rows are extrapolated; NaN gives NaN.
template <typename T>
SMOACS_HD TablePlace place(const TableJob<T>& job, T value) {
    const double u = (static_cast<double>(value) - job.low) / job.step;
    const double last = static_cast<double>(job.n_knots - kStencil);
    double first = floor(u) - (kStencil / 2 - 1);
    first = first > 0 ? (first < last ? first : last) : 0;
    return {static_cast<std::int64_t>(first), u - first};
}

// Weights of the six rows, and their slopes with respect to t: Lagrange's polynomials on 0 ... 5.
struct Stencil {
    double weight[kStencil], slope[kStencil];
};

SMOACS_HD Stencil stencil(double t) {
    // 1 / product over i != j of (j - i)
    const double scale[kStencil] = {-1.0 / 120, 1.0 / 24,  -1.0 / 12,
                                    1.0 / 12,   -1.0 / 24, 1.0 / 120};
    Stencil out;
    double product = 1, slope = 0;  // over i < j
    for (int j = 0; j < kStencil; ++j) {
        out.weight[j] = product;
        out.slope[j] = slope;
        slope = slope * (t - j) + product;
        product *= t - j;
    }
    product = 1, slope = 0;  // over i > j
    for (int j = kStencil - 1; j >= 0; --j) {
        out.slope[j] = (out.slope[j] * product + out.weight[j] * slope) * scale[j];
        out.weight[j] *= product * scale[j];
        slope = slope * (t - j) + product;
        product *= t - j;
    }
    return out;
}

// Row i of the result, (F).
template <typename T>
SMOACS_LANES void interpolate(const TableJob<T>& job, std::int64_t i, T* out) {
    const TablePlace at = place(job, job.values[i]);
    const Stencil exact = stencil(at.t);
    T w[kStencil];
    for (int j = 0; j < kStencil; ++j) w[j] = static_cast<T>(exact.weight[j]);
    const std::int64_t n = job.n_columns;
    const T* __restrict__ knots = job.table + at.first * n;
    T* __restrict__ row = out + i * n;
    for_columns(n, [&](std::int64_t c, int) {
        T sum = w[0] * knots[c];
        for (int j = 1; j < kStencil; ++j) sum += w[j] * knots[j * n + c];
        row[c] = sum;
    });
}

// Gradient to number i.
template <typename T>
SMOACS_LANES void interpolate_gradient(const TableJob<T>& job, std::int64_t i, const T* grad,
                                       T* grad_values) {
    const TablePlace at = place(job, job.values[i]);
    const Stencil exact = stencil(at.t);
    T w[kStencil];
    for (int j = 0; j < kStencil; ++j) w[j] = static_cast<T>(exact.slope[j] / job.step);
    const std::int64_t n = job.n_columns;
    const T* __restrict__ knots = job.table + at.first * n;
    const T* __restrict__ row = grad + i * n;
    const T sum = sum_columns<T>(n, [&](std::int64_t c) {
        T slope = w[0] * knots[c];
        for (int j = 1; j < kStencil; ++j) slope += w[j] * knots[j * n + c];
        return slope * row[c];
    });
    if (is_first_lane()) grad_values[i] = sum;
}

// Gradient to row k of the table, by numbers sorted by the first of their six rows: `by_first`
// (N), those of row k from start[k] to start[k + 1] (K + 1).
template <typename T>
SMOACS_LANES void table_gradient(const TableJob<T>& job, std::int64_t k, const T* grad,
                                 const std::int64_t* by_first, const std::int64_t* start,
                                 T* grad_table) {
    const std::int64_t n = job.n_columns;
    T* __restrict__ sum = grad_table + k * n;
    for_columns(n, [&](std::int64_t c, int) { sum[c] = T(0); });
    for (int j = 0; j < kStencil; ++j) {
        if (k < j) break;
        for (std::int64_t p = start[k - j]; p < start[k - j + 1]; ++p) {
            const std::int64_t i = by_first[p];
            const T w = static_cast<T>(stencil(place(job, job.values[i]).t).weight[j]);
            const T* __restrict__ row = grad + i * n;
            for_columns(n, [&](std::int64_t c, int) { sum[c] += w * row[c]; });
        }
    }
}

}  // namespace smoacs
