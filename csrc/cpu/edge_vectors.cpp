#include "cpu/edge_vectors.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/vec3.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

constexpr std::int64_t kEdgesPerBlock = 4096;

void check_sites(const Edges& edges) {
    bool ok = true, ends = true;
    for (std::int64_t e = 0; e < edges.n_edges; ++e) {
        ok &= edges.src[e] >= 0 && edges.src[e] < edges.n_sites;
        ok &= edges.dst[e] >= 0 && edges.dst[e] < edges.n_sites;
    }
    for (std::int64_t e = edges.n_edges; e < edges.n_rows; ++e) {
        ends &= edges.src[e] == edges.n_sites && edges.dst[e] == edges.n_sites;
    }
    if (!ok) throw std::invalid_argument("the neighbour list names sites beyond the coordinates");
    if (!ends) {
        throw std::invalid_argument("edge_ptr ends at " + std::to_string(edges.n_edges) +
                                    ", but the rows from there on are not free");
    }
}

template <typename T>
Vec3 step(const T* frac_coords, const Edges& edges, std::int64_t e) {
    const std::int32_t* s = edges.shift + 3 * e;
    return (load_row(frac_coords, edges.dst[e]) - load_row(frac_coords, edges.src[e])) +
           Vec3{static_cast<double>(s[0]), static_cast<double>(s[1]), static_cast<double>(s[2])};
}

}  // namespace

template <typename T>
void edge_vectors(const T* frac_coords, const T* lattice, const Edges& edges, T* out) {
    check_sites(edges);
    const std::int64_t blocks = (edges.n_edges + kEdgesPerBlock - 1) / kEdgesPerBlock;
    const std::int64_t* last = edges.edge_ptr + edges.n_crystals + 1;
#pragma omp parallel for schedule(static) num_threads(num_threads(blocks))
    for (std::int64_t block = 0; block < blocks; ++block) {
        std::int64_t e = block * kEdgesPerBlock;
        const std::int64_t stop = std::min(e + kEdgesPerBlock, edges.n_edges);
        std::int64_t c = std::upper_bound(edges.edge_ptr, last, e) - edges.edge_ptr - 1;
        for (; e < stop; ++c) {
            const Mat3 cell = load_matrix(lattice, c);
            for (; e < std::min(stop, edges.edge_ptr[c + 1]); ++e) {
                store_row(out, e, step(frac_coords, edges, e) * cell);
            }
        }
    }
    std::fill(out + 3 * edges.n_edges, out + 3 * edges.n_rows, T(0));
}

template <typename T>
void edge_vectors_backward(const T* grad, const T* frac_coords, const T* lattice,
                           const Edges& edges, T* grad_frac_coords, T* grad_lattice) {
    check_sites(edges);
    std::vector<Vec3> sums(edges.n_sites, Vec3{0, 0, 0});
    const std::int64_t n = edges.n_crystals;
#pragma omp parallel for schedule(dynamic) num_threads(num_threads(n))
    for (std::int64_t c = 0; c < n; ++c) {
        const Mat3 columns = transposed(load_matrix(lattice, c));
        Mat3 cell_sum{};
        for (std::int64_t e = edges.edge_ptr[c]; e < edges.edge_ptr[c + 1]; ++e) {
            const Vec3 g = load_row(grad, e);
            const Vec3 s = step(frac_coords, edges, e);
            cell_sum.row[0] = cell_sum.row[0] + s.x * g;
            cell_sum.row[1] = cell_sum.row[1] + s.y * g;
            cell_sum.row[2] = cell_sum.row[2] + s.z * g;
            const Vec3 g_frac = g * columns;
            sums[edges.dst[e]] = sums[edges.dst[e]] + g_frac;
            sums[edges.src[e]] = sums[edges.src[e]] - g_frac;
        }
        for (int i = 0; i < 3; ++i) store_row(grad_lattice, 3 * c + i, cell_sum.row[i]);
    }
    for (std::int64_t i = 0; i < edges.n_sites; ++i) store_row(grad_frac_coords, i, sums[i]);
}

#define SMOACS_INSTANTIATE(T)                                         \
    template void edge_vectors(const T*, const T*, const Edges&, T*); \
    template void edge_vectors_backward(const T*, const T*, const T*, const Edges&, T*, T*);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
