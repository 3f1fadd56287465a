// Softmax attention of atoms to the periodic images of the atoms of their crystal, forward and for
// its gradients.
//
// A term t of atom a is an image of atom b of the same crystal; the atom itself is one more. For
// every head
//
//     w_t = exp(q_a . k_b / sqrt(D) + decay_a square_t) / sum over the terms of a,
//     out_a = sum over the terms of w_t (v_b + sum over k of g_k(length_t) u_k)
//
// with Gaussians g_k around centres that are evenly spaced. Only those near the length count, so
// that a term takes as many as fit into one or two registers. Heads come last in all arrays, and
// their number is a multiple of eight, since eight are a vector.
#pragma once

#include <cstdint>

namespace smoacs::cpu {

template <typename T>
struct LatticeSum {
    std::int64_t n_atoms, n_crystals, n_terms, n_heads, head_width, n_functions;
    const std::int64_t* ptr;         // (C + 1) offsets of the crystals' atoms
    const std::int64_t* first_term;  // (A + 1) offsets of the atoms' terms
    const std::int64_t* image_of;    // (T)
    const T *lengths, *squares;      // (T)
    const T* reach;    // (T) or null: only heads of larger standard deviation see the term
    const T* vectors;  // (A, 3, D, H): queries q, keys k, values v
    const T* decay;    // (A, H), negative
    const T* added;    // (K, D, H): u
    const T* centers;  // (K), ascending
    T width;           // standard deviation of the Gaussians
};

template <typename T>
struct LatticeAttentionJob {
    LatticeSum<T> sum;
    T* out;     // (A, D, H)
    T* level;   // (A, H): logarithm to base 2 of the sum over the terms, for the gradients
    T* radial;  // (A, K, H) or null: sums of w_t g_k, for the gradient of u
};

// What went through the forward kernel. The gradients of lengths and squares are added to what is
// there.
template <typename T>
struct LatticeGradientJob {
    LatticeSum<T> sum;
    const T *out, *level, *grad_out;
    T *grad_vectors, *grad_decay, *grad_lengths, *grad_squares;
};

// Throws std::invalid_argument if heads do not come in eights, offsets do not ascend, or a term is
// no image of its crystal.
template <typename T>
void lattice_attention(const LatticeAttentionJob<T>& job);

template <typename T>
void lattice_attention_backward(const LatticeGradientJob<T>& job);

}  // namespace smoacs::cpu
