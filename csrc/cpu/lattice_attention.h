// Softmax attention of atoms to the periodic images of atoms, summed over the images, forward and
// for its gradients.
//
// A term t of atom a is an image of the second atom of the pair p. For every head h
//
//     w_t = exp(logit_p + decay_a square_t) / sum over the terms of a,
//     weight_p = sum of the w_t of the pair,      radial_ak = sum of w_t g_k(length_t)
//
// with Gaussians g_k around centres that are evenly spaced. Only those near the length count, so
// that a term takes as many as fit into one or two registers.
#pragma once

#include <cstdint>

namespace smoacs::cpu {

// Atom a owns the terms from first_term[a] and the pairs from first_pair[a] on.
template <typename T>
struct LatticeSum {
    std::int64_t n_atoms, n_terms, n_pairs, n_heads, n_functions;
    const std::int64_t *first_term, *term_count;  // (A)
    const std::int64_t *first_pair, *pair_count;  // (A)
    const std::int64_t* pair;                     // (T)
    const T *lengths, *squares;                   // (T)
    const T* reach;        // (T) or null: only heads of larger standard deviation see the term
    const T* pair_logits;  // (P, H)
    const T* decay;        // (A, H), negative
    const T* centers;      // (K), ascending
    T width;               // standard deviation of the Gaussians
};

template <typename T>
struct LatticeAttentionJob {
    LatticeSum<T> sum;
    T* weights;  // (P, H)
    T* radial;   // (A, H, K)
    T* level;    // (A, H): logarithm to base 2 of the sum over the terms, for the gradients
};

// What went through the forward kernel. The gradients of lengths and squares are added to what is
// there.
template <typename T>
struct LatticeGradientJob {
    LatticeSum<T> sum;
    const T *weights, *radial, *level;
    const T *grad_weights, *grad_radial;
    T *grad_logits, *grad_decay, *grad_lengths, *grad_squares;
};

// Throws std::invalid_argument if an atom's terms or pairs are not there.
template <typename T>
void lattice_attention(const LatticeAttentionJob<T>& job);

template <typename T>
void lattice_attention_backward(const LatticeGradientJob<T>& job);

}  // namespace smoacs::cpu
