// The sums of an edge-gated graph convolution around its matrix products; shared by CPU and GPU.
//
//     logit_e = edge_e + src_gate[src_e] + dst_gate[dst_e]        gate_e = sigmoid(logit_e)
//     norm_n = eps + sum over the edges e into n of gate_e
//     mean_n = sum over the edges e into n of gate_e values[src_e] / norm_n
//
// The gradients compute the gates again. Every sum runs in the order of a node's edges: no atomic
// additions. A call works on `width` <= Width features of one node from `first` on: many for a CPU,
// which turns the loops over them into vector code, one for a thread of a GPU.
//
// Lists with more room than edges end in rows that are no edges, with N at both ends: their logits
// and gradients are 0. Any other end that is no node makes NaN of the edge and of the sums it
// belongs to, and is never followed.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/activation.h"
#include "core/macros.h"

namespace smoacs {

// A graph of N nodes and E edges with F features.
struct EdgeEnds {
    std::int64_t n_nodes, n_edges, n_features;
    const std::int64_t *src, *dst;           // (E)
    const std::int64_t *by_src, *first_out;  // (E), (N + 1): edges that start at each node
    const std::int64_t *by_dst, *first_in;   // (E), (N + 1): edges that end at each node
    // Arrays of features may hold a part of the graph: from these on.
    std::int64_t first_node = 0, first_edge = 0;

    SMOACS_HD bool has(std::int64_t node) const { return node >= 0 && node < n_nodes; }
    SMOACS_HD std::int64_t row_of_node(std::int64_t n) const {
        return (n - first_node) * n_features;
    }
    SMOACS_HD std::int64_t row_of_edge(std::int64_t e) const {
        return (e - first_edge) * n_features;
    }
};

template <typename T>
struct MessageJob {
    EdgeEnds ends;
    T eps;
    const T *edge, *src_gate, *dst_gate, *values;  // (E, F), (N, F), (N, F), (N, F)
    T *logits, *mean, *norm;                       // (E, F), (N, F), (N, F); logits may be edge
};

template <typename T>
struct MessageGradientJob {
    EdgeEnds ends;
    const T *logits, *values, *mean, *norm;
    const T *grad_logits, *grad_mean;  // (E, F), or null for zeros; (N, F)
    T* grad_total;                     // (N, F), scratch
    T *grad_edge, *grad_src_gate, *grad_dst_gate, *grad_values;  // grad_edge may be grad_logits
};

// Writes the rows (E, F) of what does not end at a node; each node takes a share of them.
template <typename T>
SMOACS_HD void fill_beyond_nodes(const EdgeEnds& ends, std::int64_t node, std::int64_t first,
                                 int width, T* rows) {
    for (std::int64_t p = ends.first_in[ends.n_nodes] + node; p < ends.n_edges; p += ends.n_nodes) {
        const std::int64_t e = ends.by_dst[p];
        const bool is_padding = ends.src[e] == ends.n_nodes && ends.dst[e] == ends.n_nodes;
        T* row = rows + ends.row_of_edge(e) + first;
        for (int j = 0; j < width; ++j) row[j] = is_padding ? T(0) : T(NAN);
    }
}

template <int Width, typename T>
SMOACS_HD void gather_messages(const MessageJob<T>& job, std::int64_t node, std::int64_t first,
                               int width) {
    const EdgeEnds& ends = job.ends;
    const std::int64_t row = ends.row_of_node(node) + first;
    const T* __restrict__ dst_gate = job.dst_gate + row;
    T total[Width], norm[Width];
    for (int j = 0; j < width; ++j) total[j] = norm[j] = T(0);
    for (std::int64_t p = ends.first_in[node]; p < ends.first_in[node + 1]; ++p) {
        const std::int64_t e = ends.by_dst[p];
        const std::int64_t edge_row = ends.row_of_edge(e) + first;
        T* logit = job.logits + edge_row;
        if (!ends.has(ends.src[e])) {
            for (int j = 0; j < width; ++j) logit[j] = total[j] = norm[j] = T(NAN);
            continue;
        }
        const std::int64_t src_row = ends.row_of_node(ends.src[e]) + first;
        const T* edge = job.edge + edge_row;
        const T* __restrict__ src_gate = job.src_gate + src_row;
        const T* __restrict__ value = job.values + src_row;
        SMOACS_INDEPENDENT
        for (int j = 0; j < width; ++j) {
            logit[j] = edge[j] + src_gate[j] + dst_gate[j];
            const T gate = sigmoid(logit[j]);
            total[j] += gate * value[j];
            norm[j] += gate;
        }
    }
    for (int j = 0; j < width; ++j) {
        job.norm[row + j] = norm[j] + job.eps;
        job.mean[row + j] = total[j] / (norm[j] + job.eps);
    }
    fill_beyond_nodes(ends, node, first, width, job.logits);
}

// Gradients to the edges into a node, to its dst_gate, and to the sums of its messages.
template <int Width, typename T>
SMOACS_HD void message_gradients_in(const MessageGradientJob<T>& job, std::int64_t node,
                                    std::int64_t first, int width) {
    const EdgeEnds& ends = job.ends;
    const std::int64_t row = ends.row_of_node(node) + first;
    const T* __restrict__ mean = job.mean + row;
    const bool has_outer = job.grad_logits != nullptr;
    T sum[Width], grad_total[Width];
    for (int j = 0; j < width; ++j) {
        sum[j] = T(0);
        grad_total[j] = job.grad_mean[row + j] / job.norm[row + j];
    }
    for (std::int64_t p = ends.first_in[node]; p < ends.first_in[node + 1]; ++p) {
        const std::int64_t e = ends.by_dst[p];
        const std::int64_t edge_row = ends.row_of_edge(e) + first;
        T* grad = job.grad_edge + edge_row;
        if (!ends.has(ends.src[e])) {
            for (int j = 0; j < width; ++j) grad[j] = sum[j] = T(NAN);
            continue;
        }
        const T* __restrict__ logit = job.logits + edge_row;
        const T* __restrict__ value = job.values + ends.row_of_node(ends.src[e]) + first;
        // Not read where there is nothing to add.
        const T* outer = job.grad_logits == nullptr ? logit : job.grad_logits + edge_row;
        SMOACS_INDEPENDENT
        for (int j = 0; j < width; ++j) {
            const T slope = sigmoid_slope(sigmoid(logit[j]));
            const T inner = (value[j] - mean[j]) * grad_total[j] * slope;
            grad[j] = has_outer ? inner + outer[j] : inner;
            sum[j] += grad[j];
        }
    }
    for (int j = 0; j < width; ++j) {
        job.grad_dst_gate[row + j] = sum[j];
        job.grad_total[row + j] = grad_total[j];
    }
    fill_beyond_nodes(ends, node, first, width, job.grad_edge);
}

// Gradients to src_gate and values of a node; the edges' must be there.
template <int Width, typename T>
SMOACS_HD void message_gradients_out(const MessageGradientJob<T>& job, std::int64_t node,
                                     std::int64_t first, int width) {
    const EdgeEnds& ends = job.ends;
    T gate_sum[Width], value_sum[Width];
    for (int j = 0; j < width; ++j) gate_sum[j] = value_sum[j] = T(0);
    for (std::int64_t p = ends.first_out[node]; p < ends.first_out[node + 1]; ++p) {
        const std::int64_t e = ends.by_src[p];
        if (!ends.has(ends.dst[e])) {
            for (int j = 0; j < width; ++j) gate_sum[j] = value_sum[j] = T(NAN);
            continue;
        }
        const std::int64_t edge_row = ends.row_of_edge(e) + first;
        const T* __restrict__ logit = job.logits + edge_row;
        const T* __restrict__ grad = job.grad_edge + edge_row;
        const T* __restrict__ grad_total = job.grad_total + ends.row_of_node(ends.dst[e]) + first;
        SMOACS_INDEPENDENT
        for (int j = 0; j < width; ++j) {
            gate_sum[j] += grad[j];
            value_sum[j] += sigmoid(logit[j]) * grad_total[j];
        }
    }
    const std::int64_t row = ends.row_of_node(node) + first;
    for (int j = 0; j < width; ++j) {
        job.grad_src_gate[row + j] = gate_sum[j];
        job.grad_values[row + j] = value_sum[j];
    }
}

}  // namespace smoacs
