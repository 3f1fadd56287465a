// CPU kernels of table interpolation; core/interpolation.h has the formulas.
#pragma once

#include "core/interpolation.h"

namespace smoacs::cpu {

// Writes out (N, F).
template <typename T>
void interpolate(const TableJob<T>& job, T* out);

// Gradient to the numbers (N), given that of the result (N, F).
template <typename T>
void interpolate_backward(const TableJob<T>& job, const T* grad, T* grad_values);

// Gradient to the table (K, F); numbers sorted as core's table_gradient has it.
template <typename T>
void table_backward(const TableJob<T>& job, const T* grad, const std::int64_t* by_first,
                    const std::int64_t* start, T* grad_table);

// First of the six rows that each number is interpolated from, (N).
template <typename T>
void first_knots(const TableJob<T>& job, std::int64_t* first);

}  // namespace smoacs::cpu
