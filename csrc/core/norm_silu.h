// residual + silu(weight z + bias) of every row of a matrix, where z is the row itself or, with
// `standardize`, the row less its mean and divided by its standard deviation, as LayerNorm has it;
// shared by CPU and GPU. The lanes of row.h share the columns; the gradients compute z again.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "core/activation.h"
#include "core/macros.h"
#include "core/row.h"

namespace smoacs {

template <typename T>
struct NormJob {
    std::int64_t n_rows, n_columns;
    bool standardize;
    T eps;                   // added to the variance
    const T *x, *residual;   // (N, F); residual may be null
    const T *weight, *bias;  // (F)
    T* out;                  // (N, F)
};

template <typename T>
struct NormGradientJob {
    std::int64_t n_rows, n_columns;
    bool standardize;
    T eps;
    const T *x, *weight, *bias, *grad;
    T* grad_x;  // (N, F)
    // Sums over chunks of rows for the gradients to weight and bias, (n_chunks, 2, F), or null.
    T* chunk_sums;
    static constexpr std::int64_t kRowsPerChunk = 64;
};

template <typename Job>
SMOACS_HD std::int64_t n_chunks(const Job& job) {
    return (job.n_rows + Job::kRowsPerChunk - 1) / Job::kRowsPerChunk;
}

namespace detail {

// z = (x - shift) * scale
template <typename T>
struct Standard {
    T shift, scale;
    SMOACS_LANES T operator()(T x) const { return (x - shift) * scale; }
};

template <typename Job>
SMOACS_LANES auto standard(const Job& job, std::int64_t row) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(job.x)>>;
    const std::int64_t n = job.n_columns;
    const T* x = job.x + row * n;
    if (!job.standardize) return Standard<T>{T(0), T(1)};
    const T mean = sum_columns<T>(n, [&](std::int64_t c) { return x[c]; }) / T(n);
    const T variance =
        sum_columns<T>(n, [&](std::int64_t c) { return (x[c] - mean) * (x[c] - mean); }) / T(n);
    return Standard<T>{mean, T(1) / T(sqrt(variance + job.eps))};
}

}  // namespace detail

// Rows from `first` on, at most Rows of them: each step is taken for all before the next, so that a
// CPU does not wait for the sums of a row before it can go on.
template <int Rows, typename T>
SMOACS_LANES void norm_silu(const NormJob<T>& job, std::int64_t first, int rows) {
    const std::int64_t n = job.n_columns;
    const T* __restrict__ weight = job.weight;
    const T* __restrict__ bias = job.bias;
    detail::Standard<T> z[Rows];
    for (int i = 0; i < rows; ++i) z[i] = detail::standard(job, first + i);
    for (int i = 0; i < rows; ++i) {
        const auto standard = z[i];
        const T* __restrict__ x = job.x + (first + i) * n;
        T* __restrict__ out = job.out + (first + i) * n;
        if (job.residual == nullptr) {
            for_columns(n, [&](std::int64_t c, int) {
                out[c] = silu(standard(x[c]) * weight[c] + bias[c]);
            });
        } else {
            const T* __restrict__ residual = job.residual + (first + i) * n;
            for_columns(n, [&](std::int64_t c, int) {
                out[c] = residual[c] + silu(standard(x[c]) * weight[c] + bias[c]);
            });
        }
    }
}

// Gradients to x of rows from `first` on, at most Rows of them; adds the rows' part of those to
// weight and bias to `sums` (2, F), unless that is null.
template <int Rows, typename T>
SMOACS_LANES void norm_silu_gradient(const NormGradientJob<T>& job, std::int64_t first, int rows,
                                     T* sums) {
    const std::int64_t n = job.n_columns;
    const T* __restrict__ weight = job.weight;
    const T* __restrict__ bias = job.bias;
    detail::Standard<T> z[Rows];
    T mean[Rows], slope[Rows];
    for (int i = 0; i < rows; ++i) z[i] = detail::standard(job, first + i);
    for (int i = 0; i < rows; ++i) {
        const auto standard = z[i];
        const T* __restrict__ x = job.x + (first + i) * n;
        const T* __restrict__ grad = job.grad + (first + i) * n;
        T* __restrict__ grad_x = job.grad_x + (first + i) * n;
        for_columns(n, [&](std::int64_t c, int) {
            grad_x[c] = grad[c] * silu_slope(standard(x[c]) * weight[c] + bias[c]);
        });
        if (sums != nullptr) {
            T* __restrict__ weight_sums = sums;
            T* __restrict__ bias_sums = sums + n;
            for_columns(n, [&](std::int64_t c, int) {
                weight_sums[c] += grad_x[c] * standard(x[c]);
                bias_sums[c] += grad_x[c];
            });
        }
        T mean_lane[kPerWord], slope_lane[kPerWord];
        for (int j = 0; j < kPerWord; ++j) mean_lane[j] = slope_lane[j] = T(0);
        for_columns(n, [&](std::int64_t c, int j) {
            const T weighted = grad_x[c] * weight[c];
            grad_x[c] = weighted;
            mean_lane[j] += weighted;
            slope_lane[j] += weighted * standard(x[c]);
        });
        mean[i] = fold<Sum>(mean_lane) / T(n);
        slope[i] = fold<Sum>(slope_lane) / T(n);
    }
    for (int i = 0; job.standardize && i < rows; ++i) {
        const auto standard = z[i];
        const T row_mean = mean[i], row_slope = slope[i];
        const T* __restrict__ x = job.x + (first + i) * n;
        T* __restrict__ grad_x = job.grad_x + (first + i) * n;
        for_columns(n, [&](std::int64_t c, int) {
            grad_x[c] = (grad_x[c] - row_mean - standard(x[c]) * row_slope) * standard.scale;
        });
    }
}

// The rows of one chunk, and their sums.
template <int Rows, typename T>
SMOACS_LANES void norm_silu_gradients(const NormGradientJob<T>& job, std::int64_t chunk) {
    T* sums = job.chunk_sums;
    if (sums != nullptr) {
        sums += chunk * 2 * job.n_columns;
        for_columns(job.n_columns,
                    [&](std::int64_t c, int) { sums[c] = sums[job.n_columns + c] = T(0); });
    }
    std::int64_t row = chunk * job.kRowsPerChunk;
    const std::int64_t after = row + job.kRowsPerChunk;
    const std::int64_t end = after < job.n_rows ? after : job.n_rows;
    for (; row < end; row += Rows) {
        const std::int64_t left = end - row;
        norm_silu_gradient<Rows>(job, row, static_cast<int>(left < Rows ? left : Rows), sums);
    }
}

}  // namespace smoacs
