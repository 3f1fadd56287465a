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
        if (panel.start != nullptr && panel.n_columns == N * kSize) {
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
    for (; row < panel.n_rows; ++row) multiply_tile<1, N, Bytes>(panel, row);
}

// --- One function for each instruction set: a tile's sums must fit into its registers ------------

template <typename T>
struct Variant {
    int width, lanes;  // numbers in a row of a tile, and in a vector
    void (*multiply)(const Panel<T>&);
};

template <typename T>
constexpr Variant<T> variant_of(int vectors, int bytes, void (*multiply)(const Panel<T>&)) {
    const int lanes = bytes / static_cast<int>(sizeof(T));
    return {vectors * lanes, lanes, multiply};
}

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
Variant<T> variant_for(Instructions instructions) {
#if defined(__x86_64__)
    if (instructions == Instructions::avx512) return variant_of(4, 64, multiply_avx512<T>);
    if (instructions == Instructions::avx2) return variant_of(2, 32, multiply_avx2<T>);
#endif
    return variant_of(kPlainVectors, 16, multiply_plain<T>);
}

// --- Panels --------------------------------------------------------------------------------------

// A product's columns in panels of a tile's width. The last may be narrower, by whole vectors, so
// that small matrices are not filled up with zeros.
template <typename T>
struct Layout {
    Variant<T> variant;
    std::int64_t n_columns;

    std::int64_t n_panels() const { return (n_columns + variant.width - 1) / variant.width; }
    int columns(std::int64_t panel) const {
        return static_cast<int>(
            std::min<std::int64_t>(variant.width, n_columns - panel * variant.width));
    }
    int stride(std::int64_t panel) const {
        return (columns(panel) + variant.lanes - 1) / variant.lanes * variant.lanes;
    }
};

// The panel's columns of b at some inner indices, one row after the other.
template <typename T>
void pack(const Matrices<T>& b, std::int64_t matrix, std::int64_t start, std::int64_t inner,
          const Layout<T>& layout, std::int64_t panel, T* to) {
    const int columns = layout.columns(panel), stride = layout.stride(panel);
    for (std::int64_t k = 0; k < inner; ++k, to += stride) {
        const T* from = b.at(matrix, start + k, panel * layout.variant.width);
        for (int c = 0; c < columns; ++c) to[c] = from[c * b.column];
        std::fill(to + columns, to + stride, T(0));
    }
}

// `bias` and `packed` have room for a whole row, and for kInner or all inner indices of it.
template <typename T>
void multiply_matrix(const ProductJob<T>& job, std::int64_t matrix, const Layout<T>& layout,
                     int threads, const T* bias, T* packed) {
    const std::int64_t width = layout.variant.width, n_panels = layout.n_panels();
    T* const out = job.out + matrix * job.n_rows * job.n_columns;
    // At least once, since even an empty sum has to be written.
    for (std::int64_t start = 0; start == 0 || start < job.n_inner; start += kInner) {
        const std::int64_t inner = std::min(kInner, job.n_inner - start);
        share(n_panels, threads, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t p = begin; p < end; ++p) {
                pack(job.b, matrix, start, inner, layout, p, packed + p * inner * width);
            }
        });
        share(job.n_rows, threads, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; row += kRowBlock) {
                for (std::int64_t p = 0; p < n_panels; ++p) {
                    layout.variant.multiply({job.a.at(matrix, row, start), job.a.row, job.a.column,
                                             packed + p * inner * width, inner,
                                             start == 0 ? bias + p * width : nullptr,
                                             out + row * job.n_columns + p * width, job.n_columns,
                                             std::min(kRowBlock, end - row), layout.columns(p)});
                }
            }
        });
    }
}

}  // namespace

Instructions best_instructions() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return Instructions::avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Instructions::avx2;
#endif
    return Instructions::plain;
}

template <typename T>
void matrix_product(const ProductJob<T>& job, Instructions instructions) {
    const Layout<T> layout{variant_for<T>(instructions), job.n_columns};
    const std::int64_t row = layout.n_panels() * layout.variant.width;
    const std::int64_t packed_size = std::min(job.n_inner, kInner) * row;
    Buffer<T> bias;
    std::fill_n(bias.resize(row), row, T(0));
    if (job.bias != nullptr) std::copy_n(job.bias, job.n_columns, bias.data());
    const std::int64_t work = job.n_matrices * job.n_rows * job.n_inner * job.n_columns;
    const int threads = num_threads(work / kWorkPerThread);
    // They share the rows of one matrix, or the matrices.
    const int within = job.n_matrices == 1 ? threads : 1;
    const int among = job.n_matrices == 1 ? 1 : threads;
    share(job.n_matrices, among, [&](std::int64_t begin, std::int64_t end) {
        Buffer<T> packed;
        packed.resize(packed_size);
        for (std::int64_t m = begin; m < end; ++m) {
            multiply_matrix(job, m, layout, within, bias.data(), packed.data());
        }
    });
}

template void matrix_product(const ProductJob<float>&, Instructions);
template void matrix_product(const ProductJob<double>&, Instructions);

}  // namespace smoacs::cpu
