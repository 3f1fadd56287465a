// Products of matrices in which no element depends on how many rows, columns or matrices there are,
// nor on the number of threads: each is summed up in the order of the inner index.
#pragma once

#include <cstdint>

namespace smoacs::cpu {

// A batch of matrices anywhere in memory, by its strides.
template <typename T>
struct Matrices {
    const T* data;
    std::int64_t matrix, row, column;  // from one to the next, in elements

    const T* at(std::int64_t m, std::int64_t i, std::int64_t j) const {
        return data + m * matrix + i * row + j * column;
    }
};

// out = a b + bias for each of the matrices.
template <typename T>
struct ProductJob {
    std::int64_t n_matrices, n_rows, n_inner, n_columns;
    Matrices<T> a;  // (n_rows, n_inner)
    Matrices<T> b;  // (n_inner, n_columns)
    const T* bias;  // (n_columns) or null
    T* out;         // (n_matrices, n_rows, n_columns), contiguous
};

// What the processor must have. With fused multiply-adds, as avx2 here includes, results are the
// same for all.
enum class Instructions { plain, avx2, avx512 };

Instructions best_instructions();

template <typename T>
void matrix_product(const ProductJob<T>& job, Instructions instructions = best_instructions());

}  // namespace smoacs::cpu
