// The edge-gated graph convolution with frozen weights, forward and for its input gradients.
//
// With nodes x (N, F), edges y (E, F) and the sums of core/gated_messages.h:
//
//     logits, mean = messages of y W_e, x W_s, x W_d, x W_v     (each with its bias)
//     x <- x + silu(norm(x W_u + mean))                         y <- y + silu(norm(logits))
//
// A batch of crystals is a graph in many parts. A part goes through all steps while it is in the
// cache; what its steps hand on is kept only where the gradients need it.
#pragma once

#include <cstdint>

#include "core/gated_messages.h"

namespace smoacs::cpu {

// x @ weight^T + bias
template <typename T>
struct LinearMap {
    const T* weight;  // (F, F)
    const T* bias;    // (F)
};

// What precedes a SiLU; see core/norm_silu.h.
template <typename T>
struct Norm {
    bool standardize;
    T eps;
    const T *weight, *bias;  // (F)
};

template <typename T>
struct ConvolutionLayer {
    LinearMap<T> edge_gate, src_gate, dst_gate, values, update;
    Norm<T> node_norm, edge_norm;
    T eps;  // of the gates' sums
};

// Results (N, F) or (E, F).
template <typename T>
struct ConvolutionJob {
    EdgeEnds ends;
    ConvolutionLayer<T> layer;
    const T *x, *y;
    T *x_out, *y_out;                           // y_out may be null
    T *logits, *values, *mean, *norm, *hidden;  // for the gradients; hidden is x W_u + mean
};

template <typename T>
struct ConvolutionGradientJob {
    EdgeEnds ends;
    ConvolutionLayer<T> layer;
    const T *logits, *values, *mean, *norm, *hidden;
    const T *grad_x_out, *grad_y_out;  // grad_y_out may be null, for zeros
    T *grad_x, *grad_y;
};

// Rows that are no edges stay as they are; throws std::invalid_argument unless they come last.
template <typename T>
void convolution(const ConvolutionJob<T>& job);

template <typename T>
void convolution_backward(const ConvolutionGradientJob<T>& job);

}  // namespace smoacs::cpu
