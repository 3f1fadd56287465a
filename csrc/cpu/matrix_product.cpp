#include "cpu/matrix_product.h"

#include <algorithm>
#include <cstring>

#include "core/macros.h"
#include "cpu/buffer.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Fewer multiplications than this per thread are not worth waking it.
constexpr std::int64_t kWorkPerThread = 1 << 17;
// Rows of a tile, whose sums are held in registers.
constexpr int kTileRows = 6;
// Rows that meet one panel of b after the other while they are in the second-level cache.
constexpr std::int64_t kRowBlock = 16 * kTileRows;
// Inner indices that are summed up before they are added to the result. (One long sum would cost
// accuracy, and a longer part of b would not stay in the cache.)
constexpr std::int64_t kInner = 512;
// Rows of b that are packed together.
constexpr std::int64_t kPackedRows = 16;

template <typename T, int Bytes>
struct Register {
    typedef T type __attribute__((vector_size(Bytes)));
};

// `Rows` rows of the result from `row` on, in N vectors each.
template <int Rows, int N, int Bytes, typename T>
SMOACS_HD void multiply_tile(const Panel<T>& panel, std::int64_t row) {
    using Vector = typename Register<T, Bytes>::type;
    constexpr int kSize = Bytes / sizeof(T);
    Vector sum[Rows][N], b_row[N];
    for (int j = 0; j < N; ++j) {
        Vector start{};
        if (panel.start != nullptr) std::memcpy(&start, panel.start + j * kSize, Bytes);
        for (int i = 0; i < Rows; ++i) sum[i][j] = start;
    }
    const T* a = panel.a + row * panel.a_row;
    const T* b = panel.b;
    for (std::int64_t k = 0; k < panel.n_inner; ++k) {
        for (int j = 0; j < N; ++j) std::memcpy(&b_row[j], b + j * kSize, Bytes);
        for (int i = 0; i < Rows; ++i) {
            const Vector factor = Vector{} + a[i * panel.a_row];
            for (int j = 0; j < N; ++j) sum[i][j] = factor * b_row[j] + sum[i][j];
        }
        a += panel.a_inner;
        b += N * kSize;
    }
    for (int i = 0; i < Rows; ++i) {
        T* out = panel.out + (row + i) * panel.out_row;
        if (panel.n_columns == N * kSize) {
            for (int j = 0; j < N && panel.start == nullptr; ++j) {
                std::memcpy(&b_row[j], out + j * kSize, Bytes);
                sum[i][j] = b_row[j] + sum[i][j];
            }
            std::memcpy(out, sum[i], sizeof sum[i]);
            continue;
        }
        T whole[N * kSize];
        std::memcpy(whole, sum[i], sizeof whole);
        for (int c = 0; c < panel.n_columns; ++c) {
            out[c] = panel.start != nullptr ? whole[c] : out[c] + whole[c];
        }
    }
}

// Tiles of up to N vectors.
template <int N, int Bytes, typename T>
SMOACS_HD void multiply_panel(const Panel<T>& panel) {
    if constexpr (N > 1) {
        if (panel.n_columns * sizeof(T) <= (N - 1) * Bytes) {
            return multiply_panel<N - 1, Bytes>(panel);
        }
    }
    std::int64_t row = 0;
    for (; row + kTileRows <= panel.n_rows; row += kTileRows) {
        multiply_tile<kTileRows, N, Bytes>(panel, row);
    }
    for (; row + 2 <= panel.n_rows; row += 2) multiply_tile<2, N, Bytes>(panel, row);
    if (row < panel.n_rows) multiply_tile<1, N, Bytes>(panel, row);
}

// --- One function for each instruction set: a tile's sums must fit into its registers ------------

#if defined(__x86_64__)
template <typename T>
__attribute__((target("avx512f"))) void multiply_avx512(const Panel<T>& panel) {
    multiply_panel<4, 64>(panel);
}

template <typename T>
__attribute__((target("avx2,fma"))) void multiply_avx2(const Panel<T>& panel) {
    multiply_panel<2, 32>(panel);
}
constexpr int kPlainVectors = 2;  // of 16 registers
#else
constexpr int kPlainVectors = 4;  // of 32
#endif

template <typename T>
void multiply_plain(const Panel<T>& panel) {
    multiply_panel<kPlainVectors, 16>(panel);
}

template <typename T>
PanelKernel<T> kernel_for(Instructions instructions) {
    const auto kernel = [](int vectors, int bytes, auto* multiply) -> PanelKernel<T> {
        const int lanes = bytes / static_cast<int>(sizeof(T));
        return {vectors * lanes, lanes, multiply};
    };
#if defined(__x86_64__)
    if (instructions == Instructions::avx512) return kernel(4, 64, multiply_avx512<T>);
    if (instructions == Instructions::avx2) return kernel(2, 32, multiply_avx2<T>);
#endif
    return kernel(kPlainVectors, 16, multiply_plain<T>);
}

}  // namespace

Instructions best_instructions() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return Instructions::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Instructions::avx2;
#endif
    return Instructions::plain;
}

// --- The right factor ----------------------------------------------------------------------------

template <typename T>
RightFactor<T>::RightFactor(std::int64_t n_columns, const T* bias, Instructions instructions)
    : kernel_(kernel_for<T>(instructions)), n_columns_(n_columns) {
    const std::int64_t row = n_panels() * kernel_.width;
    std::fill_n(bias_.resize(row), row, T(0));
    if (bias != nullptr) std::copy_n(bias, n_columns, bias_.data());
}

template <typename T>
std::int64_t RightFactor<T>::n_panels() const {
    return (n_columns_ + kernel_.width - 1) / kernel_.width;
}

template <typename T>
int RightFactor<T>::columns(std::int64_t panel) const {
    return static_cast<int>(
        std::min<std::int64_t>(kernel_.width, n_columns_ - panel * kernel_.width));
}

template <typename T>
void RightFactor<T>::assign(const Matrices<T>& b, std::int64_t m, std::int64_t first,
                            std::int64_t n_inner, int threads) {
    n_inner_ = n_inner;
    packed_.resize(n_panels() * kernel_.width * n_inner);
    share(n_panels(), threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) pack(b, m, first, p);
    });
}

template <typename T>
void RightFactor<T>::pack(const Matrices<T>& b, std::int64_t m, std::int64_t first,
                          std::int64_t panel) {
    const int used = columns(panel), lanes = kernel_.lanes;
    const int stride = (used + lanes - 1) / lanes * lanes;
    T* const to = packed_.data() + panel * kernel_.width * n_inner_;
    for (std::int64_t k = 0; k < n_inner_; ++k) {
        std::fill(to + k * stride + used, to + (k + 1) * stride, T(0));
    }
    // A few rows of b at a time: all of a column would come from the same corner of the cache.
    for (std::int64_t start = 0; start < n_inner_; start += kPackedRows) {
        const std::int64_t rows = std::min(kPackedRows, n_inner_ - start);
        const T* from = b.at(m, first + start, panel * kernel_.width);
        T* block = to + start * stride;
        if (b.column == 1) {
            for (std::int64_t k = 0; k < rows; ++k) {
                std::copy_n(from + k * b.row, used, block + k * stride);
            }
        } else {
            for (int c = 0; c < used; ++c) {
                for (std::int64_t k = 0; k < rows; ++k) {
                    block[k * stride + c] = from[k * b.row + c * b.column];
                }
            }
        }
    }
}

template <typename T>
void RightFactor<T>::run(const T* a, std::int64_t a_row, std::int64_t a_inner, std::int64_t n_rows,
                         const T* start, T* out) const {
    for (std::int64_t row = 0; row < n_rows; row += kRowBlock) {
        for (std::int64_t p = 0; p < n_panels(); ++p) {
            const std::int64_t column = p * kernel_.width;
            kernel_.multiply({a + row * a_row, a_row, a_inner, packed_.data() + column * n_inner_,
                              n_inner_, start == nullptr ? nullptr : start + column,
                              out + row * n_columns_ + column, n_columns_,
                              std::min(kRowBlock, n_rows - row), columns(p)});
        }
    }
}

// --- Whole products ------------------------------------------------------------------------------

namespace {

// The threads share the rows.
template <typename T>
void multiply_matrix(const ProductJob<T>& job, std::int64_t m, RightFactor<T>& factor,
                     int threads) {
    // At least once, since even an empty sum has to be written.
    for (std::int64_t first = 0; first == 0 || first < job.n_inner; first += kInner) {
        factor.assign(job.b, m, first, std::min(kInner, job.n_inner - first), threads);
        share(job.n_rows, threads, [&](std::int64_t begin, std::int64_t end) {
            const T* a = job.a.at(m, begin, first);
            T* out = job.out + (m * job.n_rows + begin) * job.n_columns;
            if (first == 0) {
                factor.multiply(a, job.a.row, job.a.column, end - begin, out);
            } else {
                factor.add_product(a, job.a.row, job.a.column, end - begin, out);
            }
        });
    }
}

}  // namespace

template <typename T>
void matrix_product(const ProductJob<T>& job, Instructions instructions) {
    const std::int64_t work = job.n_matrices * job.n_rows * job.n_inner * job.n_columns;
    const int threads = num_threads(work / kWorkPerThread);
    if (job.n_matrices == 1) {
        RightFactor<T> factor(job.n_columns, job.bias, instructions);
        return multiply_matrix(job, 0, factor, threads);
    }
    share(job.n_matrices, threads, [&](std::int64_t begin, std::int64_t end) {
        RightFactor<T> factor(job.n_columns, job.bias, instructions);
        for (std::int64_t m = begin; m < end; ++m) multiply_matrix(job, m, factor, 1);
    });
}

template class RightFactor<float>;
template class RightFactor<double>;
template void matrix_product(const ProductJob<float>&, Instructions);
template void matrix_product(const ProductJob<double>&, Instructions);

}  // namespace smoacs::cpu
