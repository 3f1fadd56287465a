// CUDA kernels of table interpolation, one warp per row; core/interpolation.h has the formulas. All
// addresses are on the device.
#pragma once

#include "core/interpolation.h"

namespace smoacs::cuda {

template <typename T>
void interpolate(const TableJob<T>& job, T* out, std::uintptr_t stream);

template <typename T>
void interpolate_backward(const TableJob<T>& job, const T* grad, T* grad_values,
                          std::uintptr_t stream);

template <typename T>
void table_backward(const TableJob<T>& job, const T* grad, const std::int64_t* by_first,
                    const std::int64_t* start, T* grad_table, std::uintptr_t stream);

template <typename T>
void first_knots(const TableJob<T>& job, std::int64_t* first, std::uintptr_t stream);

}  // namespace smoacs::cuda
