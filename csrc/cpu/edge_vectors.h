// Vectors along edges and their gradients, on the CPU.
#pragma once

#include <cstdint>

namespace smoacs::cpu {

// Rows of a neighbour list: src and dst (R), shift (R, 3), and edge_ptr (C + 1) from 0 to E. From E
// on, rows are no edges: they have S at both ends.
struct Edges {
    const std::int64_t* src;
    const std::int64_t* dst;
    const std::int32_t* shift;
    const std::int64_t* edge_ptr;
    std::int64_t n_rows;
    std::int64_t n_edges;
    std::int64_t n_crystals;
    std::int64_t n_sites;
};

// out (R, 3) = (f_dst + shift - f_src) * lattice, computed in double precision; 0 where there is no
// edge. Throws std::invalid_argument if an edge names a site that is not there.
template <typename T>
void edge_vectors(const T* frac_coords, const T* lattice, const Edges& edges, T* out);

// Gradients of frac_coords (S, 3) and lattice (C, 3, 3), given those of the vectors (R, 3). Sums
// run over the edges of a crystal in order, whatever the batch and the number of threads.
template <typename T>
void edge_vectors_backward(const T* grad, const T* frac_coords, const T* lattice,
                           const Edges& edges, T* grad_frac_coords, T* grad_lattice);

}  // namespace smoacs::cpu
