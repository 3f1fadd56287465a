// Vectors along edges and their gradients as a GPU computes them. Sums run in an order that depends
// on nothing but the crystal: no atomic additions. Rows that are no edges, with S at both ends,
// have zero vectors and no part in the gradients.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/ragged.h"
#include "core/team.h"
#include "core/vec3.h"

namespace smoacs {

template <typename T>
struct EdgeVectorJob {
    std::int64_t n_sites, n_crystals, n_edges;
    const T* frac_coords;          // (S, 3)
    const T* lattice;              // (C, 3, 3)
    const std::int64_t* src;       // (E)
    const std::int64_t* dst;       // (E)
    const std::int32_t* shift;     // (E, 3)
    const std::int64_t* edge_ptr;  // (C + 1)
};

// What the gradients need besides.
template <typename T>
struct EdgeGradientJob {
    EdgeVectorJob<T> edges;
    const T* grad;  // (E, 3)
    // Edges sorted by source and by destination, and where those of each site (S + 1) start.
    const std::int64_t *by_src, *first_out;
    const std::int64_t *by_dst, *first_in;
    // The edges of a crystal in chunks of this size: offsets (C + 1), and a sum (N, 3, 3) for each.
    static constexpr std::int64_t kChunk = 1024;
    std::int64_t n_chunks;
    const std::int64_t* chunk_ptr;
    double* chunk_sums;
    T* grad_frac_coords;  // (S, 3)
    T* grad_lattice;      // (C, 3, 3)
};

namespace detail {

// NaN for an edge between sites that are not there.
template <typename T>
SMOACS_LANES Vec3 edge_step(const EdgeVectorJob<T>& job, std::int64_t e) {
    const std::int64_t i = job.src[e], j = job.dst[e];
    if (i < 0 || j < 0 || i >= job.n_sites || j >= job.n_sites) return {NAN, NAN, NAN};
    return (load_row(job.frac_coords, j) - load_row(job.frac_coords, i)) + load_row(job.shift, e);
}

template <typename Team>
SMOACS_LANES Vec3 sum(Vec3 v) {
    return {Team::sum(v.x), Team::sum(v.y), Team::sum(v.z)};
}

}  // namespace detail

// Vector of row e.
template <typename T>
SMOACS_LANES void edge_vector(const EdgeVectorJob<T>& job, std::int64_t e, T* out) {
    if (job.src[e] == job.n_sites && job.dst[e] == job.n_sites) {
        return store_row(out, e, Vec3{0, 0, 0});
    }
    const std::int64_t c = group_of(job.edge_ptr, job.n_crystals, e);
    store_row(out, e, detail::edge_step(job, e) * load_matrix(job.lattice, c));
}

// Sum over one chunk of edges for the gradient of a lattice.
template <typename Team, typename T>
SMOACS_LANES void sum_chunk(const EdgeGradientJob<T>& job, std::int64_t number) {
    if (number >= job.chunk_ptr[job.edges.n_crystals]) return;
    const std::int64_t c = group_of(job.chunk_ptr, job.edges.n_crystals, number);
    const std::int64_t begin =
        job.edges.edge_ptr[c] + (number - job.chunk_ptr[c]) * EdgeGradientJob<T>::kChunk;
    const std::int64_t crystal_end = job.edges.edge_ptr[c + 1];
    const std::int64_t chunk_end = begin + EdgeGradientJob<T>::kChunk;
    const std::int64_t end = chunk_end < crystal_end ? chunk_end : crystal_end;
    Mat3 mine{};
    for (std::int64_t e = begin + Team::rank(); e < end; e += Team::size) {
        const Vec3 g = load_row(job.grad, e), step = detail::edge_step(job.edges, e);
        mine.row[0] = mine.row[0] + step.x * g;
        mine.row[1] = mine.row[1] + step.y * g;
        mine.row[2] = mine.row[2] + step.z * g;
    }
    for (int i = 0; i < 3; ++i) {
        const Vec3 row = detail::sum<Team>(mine.row[i]);
        if (Team::rank() == 0) store_row(job.chunk_sums, 3 * number + i, row);
    }
}

// Gradient of lattice c.
template <typename T>
SMOACS_LANES void lattice_gradient(const EdgeGradientJob<T>& job, std::int64_t c) {
    Mat3 sum{};
    for (std::int64_t number = job.chunk_ptr[c]; number < job.chunk_ptr[c + 1]; ++number) {
        const Mat3 part = load_matrix(job.chunk_sums, number);
        for (int i = 0; i < 3; ++i) sum.row[i] = sum.row[i] + part.row[i];
    }
    for (int i = 0; i < 3; ++i) store_row(job.grad_lattice, 3 * c + i, sum.row[i]);
}

// Gradient of the coordinates of a site: the edges that end there less those that start there.
template <typename Team, typename T>
SMOACS_LANES void site_gradient(const EdgeGradientJob<T>& job, std::int64_t site) {
    Vec3 mine{0, 0, 0};
    for (std::int64_t p = job.first_in[site] + Team::rank(); p < job.first_in[site + 1];
         p += Team::size) {
        mine = mine + load_row(job.grad, job.by_dst[p]);
    }
    for (std::int64_t p = job.first_out[site] + Team::rank(); p < job.first_out[site + 1];
         p += Team::size) {
        mine = mine - load_row(job.grad, job.by_src[p]);
    }
    const Vec3 sum = detail::sum<Team>(mine);
    // The edges of a site belong to one crystal.
    const bool is_source = job.first_out[site] < job.first_out[site + 1];
    const bool is_end = job.first_in[site] < job.first_in[site + 1];
    Vec3 gradient{0, 0, 0};
    if (is_source || is_end) {
        const std::int64_t e =
            is_source ? job.by_src[job.first_out[site]] : job.by_dst[job.first_in[site]];
        const std::int64_t c = group_of(job.edges.edge_ptr, job.edges.n_crystals, e);
        gradient = sum * transposed(load_matrix(job.edges.lattice, c));
    }
    if (Team::rank() == 0) store_row(job.grad_frac_coords, site, gradient);
}

}  // namespace smoacs
