// Products of matrices in which no element depends on how many rows, columns or matrices there are,
// nor on the number of threads: each is summed up in the order of the inner index.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"

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

// What the processor must have. With fused multiply-adds, as avx2 here includes, results are the
// same for all.
enum class Instructions { plain, avx2, avx512 };

Instructions best_instructions();

// out = a b + bias for each of the matrices.
template <typename T>
struct ProductJob {
    std::int64_t n_matrices, n_rows, n_inner, n_columns;
    Matrices<T> a;  // (n_rows, n_inner)
    Matrices<T> b;  // (n_inner, n_columns)
    const T* bias;  // (n_columns) or null
    T* out;         // (n_matrices, n_rows, n_columns), contiguous
};

template <typename T>
void matrix_product(const ProductJob<T>& job, Instructions instructions = best_instructions());

// Part of a product: some inner indices, and the columns of one panel of b. Its rows follow each
// other in memory, filled up with zeros to whole vectors.
template <typename T>
struct Panel {
    const T* a;
    std::int64_t a_row, a_inner;  // strides
    const T* b;
    std::int64_t n_inner;
    const T* start;  // a row to start all sums from, or null: the sums are added to `out`
    T* out;
    std::int64_t out_row;  // stride
    std::int64_t n_rows;
    int n_columns;
};

template <typename T>
struct PanelKernel {
    int width, lanes;  // numbers in a row of a tile, and in a vector
    void (*multiply)(const Panel<T>&);
};

// The right factor of products, in the order in which it is read: panels of a tile's width. The
// last may be narrower, by whole vectors, so that small matrices are not filled up with zeros.
template <typename T>
class RightFactor {
  public:
    RightFactor(std::int64_t n_columns, const T* bias,
                Instructions instructions = best_instructions());

    // Takes rows `first` to `first + n_inner` of matrix m.
    void assign(const Matrices<T>& b, std::int64_t m, std::int64_t first, std::int64_t n_inner,
                int threads);

    // Rows of out = a b + bias. Row i of a begins at a + i * a_row, out is contiguous.
    void multiply(const T* a, std::int64_t a_row, std::int64_t a_inner, std::int64_t n_rows,
                  T* out) const {
        run(a, a_row, a_inner, n_rows, bias_.data(), out);
    }

    // Rows of out += a b.
    void add_product(const T* a, std::int64_t a_row, std::int64_t a_inner, std::int64_t n_rows,
                     T* out) const {
        run(a, a_row, a_inner, n_rows, nullptr, out);
    }

  private:
    std::int64_t n_panels() const;
    int columns(std::int64_t panel) const;
    void pack(const Matrices<T>& b, std::int64_t m, std::int64_t first, std::int64_t panel);
    void run(const T* a, std::int64_t a_row, std::int64_t a_inner, std::int64_t n_rows,
             const T* start, T* out) const;

    PanelKernel<T> kernel_;
    std::int64_t n_columns_, n_inner_ = 0;
    Buffer<T> bias_, packed_;
};

}  // namespace smoacs::cpu
