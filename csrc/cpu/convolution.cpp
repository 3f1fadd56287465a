#include "cpu/convolution.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/gated_messages.h"
#include "cpu/matrix_product.h"
#include "cpu/norm_silu.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Edges of a part: enough for each time that the weights come from the third-level cache, few
// enough for their features to stay in the second.
constexpr std::int64_t kPartEdges = 256;
// Fewer multiplications than this per thread are not worth waking it, for one of many steps.
constexpr std::int64_t kWorkPerThread = 1 << 22;

// Nodes and edges that no edge joins to the others.
struct Part {
    std::int64_t first_node, end_node, first_edge, end_edge;

    std::int64_t n_nodes() const { return end_node - first_node; }
    std::int64_t n_edges() const { return end_edge - first_edge; }
};

// The graph in parts of at least so many edges, as far as it falls into parts in which nodes and
// edges follow each other.
std::vector<Part> parts_of(const EdgeEnds& ends, std::int64_t least_edges) {
    // Lowest node of the edges from each one on.
    std::vector<std::int64_t> lowest(ends.n_edges + 1, ends.n_nodes);
    for (std::int64_t e = ends.n_edges - 1; e >= 0; --e) {
        lowest[e] = std::min({lowest[e + 1], ends.src[e], ends.dst[e]});
    }
    std::vector<Part> parts;
    Part part{0, ends.n_nodes, 0, ends.n_edges};
    std::int64_t highest = -1;
    for (std::int64_t e = 0; e + least_edges < ends.n_edges; ++e) {
        highest = std::max({highest, ends.src[e], ends.dst[e]});
        if (e + 1 - part.first_edge < least_edges || lowest[e + 1] <= highest) continue;
        parts.push_back({part.first_node, lowest[e + 1], part.first_edge, e + 1});
        part.first_node = lowest[e + 1];
        part.first_edge = e + 1;
    }
    parts.push_back(part);
    return parts;
}

// The graph without the rows at its end that are no edges.
EdgeEnds edges_of(EdgeEnds ends) {
    const std::int64_t n = ends.first_in[ends.n_nodes];
    if (n < ends.n_edges && ends.by_dst[n] != n) {
        throw std::invalid_argument("rows that are no edges must come last");
    }
    ends.n_edges = n;
    return ends;
}

// Calls run(part, threads) for all parts: in parallel if they are several for each thread, else one
// after the other, each with the threads that it can use.
template <typename Run>
void for_parts(const EdgeEnds& ends, Run&& run) {
    const std::int64_t f = ends.n_features;
    const auto threads_for = [f](std::int64_t n_rows) {
        return num_threads(n_rows * f * f / kWorkPerThread);
    };
    const int threads = threads_for(ends.n_nodes + ends.n_edges);
    const auto parts = parts_of(ends, std::min(kPartEdges, ends.n_edges / (4 * threads) + 1));
    const auto n = static_cast<std::int64_t>(parts.size());
    if (n >= 2 * threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (std::int64_t i = 0; i < n; ++i) run(parts[i], 1);
        return;
    }
    for (const Part& part : parts) run(part, threads_for(part.n_nodes() + part.n_edges()));
}

// Features of nodes and edges that are needed within a part only, one array after the other.
template <typename T>
class Scratch {
  public:
    explicit Scratch(std::int64_t size) : next_(memory_.resize(size)) {}
    T* take(std::int64_t size) {
        T* const taken = next_;
        next_ += size;
        return taken;
    }

  private:
    Buffer<T> memory_;
    T* next_;
};

// A linear map in one direction, for many parts.
template <typename T>
RightFactor<T> factor_of(const LinearMap<T>& map, std::int64_t f) {
    RightFactor<T> factor(f, map.bias);
    factor.assign({map.weight, 0, 1, f}, 0, 0, f, 1);
    return factor;
}

template <typename T>
RightFactor<T> backward_factor_of(const LinearMap<T>& map, std::int64_t f) {
    RightFactor<T> factor(f, nullptr);
    factor.assign({map.weight, 0, f, 1}, 0, 0, f, 1);
    return factor;
}

template <typename T>
NormJob<T> norm_job(const Norm<T>& norm, std::int64_t n_rows, std::int64_t f, const T* x,
                    const T* residual, T* out) {
    return {n_rows, f, norm.standardize, norm.eps, x, residual, norm.weight, norm.bias, out};
}

template <typename T>
NormGradientJob<T> norm_gradient_job(const Norm<T>& norm, std::int64_t n_rows, std::int64_t f,
                                     const T* x, const T* grad, T* grad_x) {
    return {n_rows,    f,    norm.standardize, norm.eps, x, norm.weight,
            norm.bias, grad, grad_x,           nullptr};
}

template <typename T>
void multiply(const RightFactor<T>& factor, const T* a, std::int64_t n_rows, std::int64_t f,
              int threads, T* out) {
    share(n_rows, threads, [&](std::int64_t begin, std::int64_t end) {
        factor.multiply(a + begin * f, f, 1, end - begin, out + begin * f);
    });
}

template <typename T>
void add_product(const RightFactor<T>& factor, const T* a, std::int64_t n_rows, std::int64_t f,
                 int threads, T* out) {
    share(n_rows, threads, [&](std::int64_t begin, std::int64_t end) {
        factor.add_product(a + begin * f, f, 1, end - begin, out + begin * f);
    });
}

EdgeEnds from(EdgeEnds ends, const Part& part) {
    ends.first_node = part.first_node;
    ends.first_edge = part.first_edge;
    return ends;
}

// Rows of a part's nodes that an edge starts or ends at. Long bonds have no pairs, and so no need
// of gates.
std::vector<std::int64_t> joined_rows(const EdgeEnds& ends, const Part& part) {
    std::vector<std::int64_t> rows;
    for (std::int64_t n = part.first_node; n < part.end_node; ++n) {
        const bool has_out = ends.first_out[n] < ends.first_out[n + 1];
        const bool has_in = ends.first_in[n] < ends.first_in[n + 1];
        if (has_out || has_in) rows.push_back(n - part.first_node);
    }
    return rows;
}

// Row i of `to` becomes row rows[i] of `from`, and the other way round.
template <typename T>
void take_rows(const T* from, const std::vector<std::int64_t>& rows, std::int64_t f, int threads,
               T* to) {
    share(rows.size(), threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) std::copy_n(from + rows[i] * f, f, to + i * f);
    });
}

template <typename T>
void put_rows(const T* from, const std::vector<std::int64_t>& rows, std::int64_t f, int threads,
              T* to) {
    share(rows.size(), threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) std::copy_n(from + i * f, f, to + rows[i] * f);
    });
}

}  // namespace

template <typename T>
void convolution(const ConvolutionJob<T>& job) {
    const EdgeEnds ends = edges_of(job.ends);
    const std::int64_t f = ends.n_features;
    const auto& layer = job.layer;
    const auto edge_gate = factor_of(layer.edge_gate, f), src_gate = factor_of(layer.src_gate, f),
               dst_gate = factor_of(layer.dst_gate, f), values = factor_of(layer.values, f),
               update = factor_of(layer.update, f);
    for_parts(ends, [&](const Part& part, int threads) {
        const std::int64_t nodes = part.n_nodes(), node = part.first_node * f;
        const std::int64_t edges = part.n_edges(), edge = part.first_edge * f;
        const auto joined = joined_rows(ends, part);
        const auto n_joined = static_cast<std::int64_t>(joined.size());
        Scratch<T> scratch((2 * nodes + 2 * n_joined) * f);
        T *const src = scratch.take(nodes * f), *const dst = scratch.take(nodes * f);
        T *const x_joined = scratch.take(n_joined * f), *const mapped = scratch.take(n_joined * f);
        const T *const x = job.x + node, *const y = job.y + edge;
        T *const logits = job.logits + edge, *const hidden = job.hidden + node;
        T* const mean = job.mean + node;
        take_rows(x, joined, f, threads, x_joined);
        const auto map_joined = [&](const RightFactor<T>& factor, T* out) {
            multiply(factor, x_joined, n_joined, f, threads, mapped);
            put_rows(mapped, joined, f, threads, out);
        };
        map_joined(src_gate, src);
        map_joined(dst_gate, dst);
        std::fill_n(job.values + node, n_joined < nodes ? nodes * f : 0, T(0));
        map_joined(values, job.values + node);
        multiply(update, x, nodes, f, threads, hidden);
        multiply(edge_gate, y, edges, f, threads, logits);
        gated_messages<T>({from(ends, part), layer.eps, logits, src, dst, job.values + node, logits,
                           mean, job.norm + node},
                          part.first_node, part.end_node, threads);
        share(nodes * f, threads, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) hidden[i] += mean[i];
        });
        norm_silu(norm_job(layer.node_norm, nodes, f, hidden, x, job.x_out + node), threads);
        if (job.y_out != nullptr) {
            norm_silu(norm_job(layer.edge_norm, edges, f, logits, y, job.y_out + edge), threads);
        }
    });
    if (job.y_out != nullptr) {
        std::copy(job.y + ends.n_edges * f, job.y + job.ends.n_edges * f,
                  job.y_out + ends.n_edges * f);
    }
}

template <typename T>
void convolution_backward(const ConvolutionGradientJob<T>& job) {
    const EdgeEnds ends = edges_of(job.ends);
    const std::int64_t f = ends.n_features;
    const auto& layer = job.layer;
    const auto edge_gate = backward_factor_of(layer.edge_gate, f),
               src_gate = backward_factor_of(layer.src_gate, f),
               dst_gate = backward_factor_of(layer.dst_gate, f),
               values = backward_factor_of(layer.values, f),
               update = backward_factor_of(layer.update, f);
    for_parts(ends, [&](const Part& part, int threads) {
        const std::int64_t nodes = part.n_nodes(), node = part.first_node * f;
        const std::int64_t edges = part.n_edges(), edge = part.first_edge * f;
        const auto joined = joined_rows(ends, part);
        const auto n_joined = static_cast<std::int64_t>(joined.size());
        Scratch<T> scratch((5 * nodes + edges + 2 * n_joined) * f);
        T *const hidden = scratch.take(nodes * f), *const total = scratch.take(nodes * f);
        T *const src = scratch.take(nodes * f), *const dst = scratch.take(nodes * f);
        T *const value = scratch.take(nodes * f), *const gates = scratch.take(edges * f);
        T *const rows = scratch.take(n_joined * f), *const sums = scratch.take(n_joined * f);
        const T* const logits = job.logits + edge;
        norm_silu_backward(norm_gradient_job(layer.node_norm, nodes, f, job.hidden + node,
                                             job.grad_x_out + node, hidden),
                           threads);
        const T* outer = nullptr;
        if (job.grad_y_out != nullptr) {
            outer = gates;
            norm_silu_backward(
                norm_gradient_job(layer.edge_norm, edges, f, logits, job.grad_y_out + edge, gates),
                threads);
        }
        gated_messages_backward<T>({from(ends, part), logits, job.values + node, job.mean + node,
                                    job.norm + node, outer, hidden, total, gates, src, dst, value},
                                   part.first_node, part.end_node, threads);
        T* const grad_x = job.grad_x + node;
        std::copy_n(job.grad_x_out + node, nodes * f, grad_x);
        add_product(update, hidden, nodes, f, threads, grad_x);
        take_rows(grad_x, joined, f, threads, sums);
        const auto add_joined = [&](const RightFactor<T>& factor, const T* grad) {
            take_rows(grad, joined, f, threads, rows);
            add_product(factor, rows, n_joined, f, threads, sums);
        };
        add_joined(src_gate, src);
        add_joined(dst_gate, dst);
        add_joined(values, value);
        put_rows(sums, joined, f, threads, grad_x);
        T* const grad_y = job.grad_y + edge;
        if (job.grad_y_out == nullptr) {
            multiply(edge_gate, gates, edges, f, threads, grad_y);
        } else {
            std::copy_n(job.grad_y_out + edge, edges * f, grad_y);
            add_product(edge_gate, gates, edges, f, threads, grad_y);
        }
    });
    const std::int64_t first = ends.n_edges * f, last = job.ends.n_edges * f;
    if (job.grad_y_out == nullptr) {
        std::fill(job.grad_y + first, job.grad_y + last, T(0));
    } else {
        std::copy(job.grad_y_out + first, job.grad_y_out + last, job.grad_y + first);
    }
}

#define SMOACS_INSTANTIATE(T)                            \
    template void convolution(const ConvolutionJob<T>&); \
    template void convolution_backward(const ConvolutionGradientJob<T>&);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
