// Kernels of graph networks on exactly sized buffers: formulas written out, finite differences, any
// number of threads, and the kernels of a GPU.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "cpu/convolution.h"
#include "cpu/gated_messages.h"
#include "cpu/interpolation.h"
#include "cpu/lattice_attention.h"
#include "cpu/norm_silu.h"
#include "cpu/threads.h"
#include "cuda/gated_messages.h"
#include "cuda/interpolation.h"
#include "cuda/norm_silu.h"

namespace {

template <typename T>
std::vector<T> waves(std::int64_t n, double start) {
    std::vector<T> values(n);
    for (std::int64_t i = 0; i < n; ++i) values[i] = T(2 * std::sin(start + 1.7 * i));
    return values;
}

double sigmoid(double x) {
    return 1 / (1 + std::exp(-x));
}

void numbers() {
    for (double x : {-1e4, -90.0, -20.0, -1.0, -1e-3, 0.0, 1e-3, 0.7, 5.0, 90.0, 1e4}) {
        CHECK(std::fabs(smoacs::sigmoid(x) - sigmoid(x)) < 1e-15);
        CHECK(std::fabs(smoacs::sigmoid(float(x)) - sigmoid(x)) < 2e-7);
        CHECK(std::fabs(smoacs::silu(x) - x * sigmoid(x)) < 1e-12);
        const double h = 1e-6 * std::max(1.0, std::fabs(x));
        const double slope = (smoacs::silu(x + h) - smoacs::silu(x - h)) / (2 * h);
        CHECK(std::fabs(smoacs::silu_slope(x) - slope) < 1e-8);
        const double above = std::log1p(std::exp(x < 20 ? x : 0.0));
        const double plus = x > 20 ? x : above;
        CHECK(std::fabs(smoacs::softplus(x) - plus) < 1e-14 * plus + 1e-300);
        CHECK(std::fabs(smoacs::softplus(float(x)) - plus) < 1e-5 * plus + 1e-37);
    }
    for (int i = 0; i <= 1000; ++i) {
        const double x = 1e-3 * i * i * 1e-3;
        CHECK(std::fabs(smoacs::log_1_plus(x) - std::log1p(x)) <= 3e-16 * std::log1p(x));
        const float y = float(x);
        CHECK(std::fabs(smoacs::log_1_plus(y) - std::log1p(double(y))) <= 2e-7 * std::log1p(y));
    }
    const float infinity = std::numeric_limits<float>::infinity();
    CHECK(smoacs::sigmoid(infinity) == 1 && smoacs::sigmoid(-infinity) < 1e-37f);
    CHECK(std::isnan(smoacs::sigmoid(infinity - infinity)));
}

// --- Gated messages ------------------------------------------------------------------------------

// Blocks of nodes with edges inside only, as crystals are, or edges between any nodes.
template <typename T>
struct Messages {
    std::int64_t nodes, edges, width;
    std::vector<std::int64_t> src, dst, by_src, first_out, by_dst, first_in;
    std::vector<T> edge, src_gate, dst_gate, values, logits, mean, norm;
    std::vector<T> grad_logits, grad_mean, grad_total, grad_edge, grad_src, grad_dst, grad_values;

    Messages(std::int64_t nodes, std::int64_t edges, std::int64_t width, std::int64_t block)
        : nodes(nodes), edges(edges), width(width) {
        for (std::int64_t e = 0; e < edges; ++e) {
            const std::int64_t start = e * nodes / edges / block * block;
            const std::int64_t size = std::min(block, nodes - start);
            src.push_back(start + e * e % 7 * 3 % size);
            dst.push_back(start + e * 5 % size);
        }
        by_src = by_dst = std::vector<std::int64_t>(edges);
        first_out = first_in = std::vector<std::int64_t>(nodes + 1);
        smoacs::cpu::group_rows(src.data(), edges, nodes, by_src.data(), first_out.data());
        smoacs::cpu::group_rows(dst.data(), edges, nodes, by_dst.data(), first_in.data());
        const std::int64_t of_edges = edges * width, of_nodes = nodes * width;
        edge = waves<T>(of_edges, 0);
        src_gate = waves<T>(of_nodes, 1);
        dst_gate = waves<T>(of_nodes, 2);
        values = waves<T>(of_nodes, 3);
        grad_logits = waves<T>(of_edges, 4);
        grad_mean = waves<T>(of_nodes, 5);
        logits = grad_edge = std::vector<T>(of_edges);
        mean = norm = grad_total = grad_src = grad_dst = grad_values = std::vector<T>(of_nodes);
    }

    smoacs::EdgeEnds ends() const {
        return {nodes,
                edges,
                width,
                src.data(),
                dst.data(),
                by_src.data(),
                first_out.data(),
                by_dst.data(),
                first_in.data()};
    }
    smoacs::MessageJob<T> job() {
        return {ends(),        T(1e-6),       edge.data(), src_gate.data(), dst_gate.data(),
                values.data(), logits.data(), mean.data(), norm.data()};
    }
    smoacs::MessageGradientJob<T> gradient_job() {
        return {ends(),           logits.data(),      values.data(),    mean.data(),
                norm.data(),      grad_logits.data(), grad_mean.data(), grad_total.data(),
                grad_edge.data(), grad_src.data(),    grad_dst.data(),  grad_values.data()};
    }

    void run() {
        smoacs::cpu::gated_messages(job());
        smoacs::cpu::gated_messages_backward(gradient_job());
    }

    // What the gradients are gradients of.
    double objective() {
        smoacs::cpu::gated_messages(job());
        double sum = 0;
        for (std::int64_t i = 0; i < edges * width; ++i) sum += grad_logits[i] * logits[i];
        for (std::int64_t i = 0; i < nodes * width; ++i) sum += grad_mean[i] * mean[i];
        return sum;
    }

    bool equals(const Messages& other) const {
        return logits == other.logits && mean == other.mean && norm == other.norm &&
               grad_edge == other.grad_edge && grad_src == other.grad_src &&
               grad_dst == other.grad_dst && grad_values == other.grad_values;
    }
};

void messages_follow_the_formula() {
    Messages<double> given(9, 25, 5, 9);
    given.run();
    for (std::int64_t n = 0; n < 9; ++n) {
        for (std::int64_t f = 0; f < 5; ++f) {
            double total = 0, norm = 1e-6;
            for (std::int64_t e = 0; e < 25; ++e) {
                if (given.dst[e] != n) continue;
                const std::int64_t s = given.src[e] * 5 + f;
                const double gate =
                    sigmoid(given.edge[e * 5 + f] + given.src_gate[s] + given.dst_gate[n * 5 + f]);
                total += gate * given.values[s];
                norm += gate;
            }
            CHECK(std::fabs(given.mean[n * 5 + f] - total / norm) < 1e-12);
        }
    }
    CHECK(has_slopes(given, given.edge, given.grad_edge, 1e-5, 1e-7));
    CHECK(has_slopes(given, given.src_gate, given.grad_src, 1e-5, 1e-7));
    CHECK(has_slopes(given, given.dst_gate, given.grad_dst, 1e-5, 1e-7));
    CHECK(has_slopes(given, given.values, given.grad_values, 1e-5, 1e-7));
}

template <typename T>
void messages_do_not_depend_on_the_work_plan() {
    for (std::int64_t width : {1, 33, 256, 300}) {
        for (std::int64_t block : {3, 20, 64}) {  // 64: all nodes
            Messages<T> alone(64, 500, width, block), together(64, 500, width, block);
            Messages<T> on_gpu(64, 500, width, block);
            smoacs::cpu::set_num_threads(1);
            alone.run();
            smoacs::cpu::set_num_threads(5);
            together.run();
            CHECK(together.equals(alone));
            smoacs::cuda::gated_messages(on_gpu.job(), 0);
            smoacs::cuda::gated_messages_backward(on_gpu.gradient_job(), 0);
            CHECK(on_gpu.equals(alone));
        }
    }
    smoacs::cpu::set_num_threads(0);
}

// Edge 3 is none; edges 7 and 20 have an end that is not there, as a GPU may find them.
void messages_follow_nodes_only() {
    Messages<double> given(9, 25, 5, 9);
    const std::int64_t wrong = std::int64_t{1} << 40;
    given.src[3] = given.dst[3] = 9;
    std::vector<std::int64_t> src = given.src, dst = given.dst;
    src[7] = dst[20] = 9;
    given.src[7] = wrong;
    given.dst[20] = -wrong;
    smoacs::cpu::group_rows(src.data(), 25, 9, given.by_src.data(), given.first_out.data());
    smoacs::cpu::group_rows(dst.data(), 25, 9, given.by_dst.data(), given.first_in.data());
    std::fill(given.logits.begin(), given.logits.end(), 7.0);
    std::fill(given.grad_edge.begin(), given.grad_edge.end(), 7.0);
    given.run();
    for (std::int64_t f = 0; f < 5; ++f) {
        for (const auto& rows : {given.logits, given.grad_edge}) {
            CHECK(rows[3 * 5 + f] == 0);
            CHECK(std::isnan(rows[7 * 5 + f]) && std::isnan(rows[20 * 5 + f]));
        }
        for (std::int64_t n = 0; n < 9; ++n) {
            CHECK(std::isnan(given.mean[n * 5 + f]) == (n == given.dst[7]));
            CHECK(std::isnan(given.grad_dst[n * 5 + f]) == (n == given.dst[7]));
        }
        CHECK(std::isnan(given.grad_src[given.src[20] * 5 + f]));
        CHECK(std::isnan(given.grad_values[given.src[20] * 5 + f]));
    }
}

void graphs_without_edges_or_nodes() {
    Messages<float> lonely(3, 0, 4, 3), nothing(0, 0, 4, 1);
    lonely.run();
    nothing.run();
    for (float x : lonely.mean) CHECK(x == 0);
    for (float x : lonely.grad_values) CHECK(x == 0);
}

void groups() {
    std::vector<std::int64_t> group{2, 0, 2, 1}, rows(4), start(5);
    smoacs::cpu::group_rows(group.data(), 4, 4, rows.data(), start.data());
    CHECK((rows == std::vector<std::int64_t>{1, 3, 0, 2}));
    CHECK((start == std::vector<std::int64_t>{0, 1, 2, 4, 4}));
    group[1] = 4;  // no group
    smoacs::cpu::group_rows(group.data(), 4, 4, rows.data(), start.data());
    CHECK((rows == std::vector<std::int64_t>{3, 0, 2, 1}));
    CHECK((start == std::vector<std::int64_t>{0, 0, 1, 3, 3}));
    for (std::int64_t wrong : {-1, 5}) {
        group[1] = wrong;
        bool refused = false;
        try {
            smoacs::cpu::group_rows(group.data(), 4, 4, rows.data(), start.data());
        } catch (const std::invalid_argument&) {
            refused = true;
        }
        CHECK(refused);
    }
}

// --- Normalised SiLU -----------------------------------------------------------------------------

void norms_follow_the_formula() {
    const std::int64_t rows = 100;
    for (std::int64_t n : {1, 31, 32, 33, 70}) {
        for (bool standardize : {false, true}) {
            const auto x = waves<double>(rows * n, 0), residual = waves<double>(rows * n, 1);
            const auto weight = waves<double>(n, 2), bias = waves<double>(n, 3);
            std::vector<double> out(rows * n), zeros(rows * n);
            smoacs::cpu::norm_silu<double>({rows, n, standardize, 1e-5, x.data(), residual.data(),
                                            weight.data(), bias.data(), out.data()});
            const auto grad = waves<double>(rows * n, 4);
            std::vector<double> grad_x(rows * n), sums(2 * 2 * n);
            smoacs::NormGradientJob<double> job{
                rows,          n,           standardize, 1e-5,          x.data(),
                weight.data(), bias.data(), grad.data(), grad_x.data(), sums.data()};
            CHECK(smoacs::n_chunks(job) == 2);
            smoacs::cpu::norm_silu_backward(job);
            std::vector<double> of_weight(n), of_bias(n);
            for (std::int64_t r = 0; r < rows; ++r) {
                double mean = 0, variance = 0;
                for (std::int64_t c = 0; c < n; ++c) mean += x[r * n + c] / n;
                for (std::int64_t c = 0; c < n; ++c)
                    variance += std::pow(x[r * n + c] - mean, 2) / n;
                for (std::int64_t c = 0; c < n; ++c) {
                    const double z = standardize
                                         ? (x[r * n + c] - mean) / std::sqrt(variance + 1e-5)
                                         : x[r * n + c];
                    const double u = z * weight[c] + bias[c];
                    CHECK(std::fabs(out[r * n + c] - residual[r * n + c] - u * sigmoid(u)) < 1e-9);
                    const double slope = grad[r * n + c] * smoacs::silu_slope(u);
                    of_weight[c] += slope * z;
                    of_bias[c] += slope;
                    if (!standardize) {
                        CHECK(std::fabs(grad_x[r * n + c] - slope * weight[c]) < 1e-10);
                    }
                }
            }
            for (std::int64_t c = 0; c < n; ++c) {
                CHECK(std::fabs(sums[c] + sums[2 * n + c] - of_weight[c]) < 1e-8);
                CHECK(std::fabs(sums[n + c] + sums[3 * n + c] - of_bias[c]) < 1e-8);
            }
            // A constant added to a row changes nothing.
            for (std::int64_t r = 0; standardize && r < rows; ++r) {
                double sum = 0;
                for (std::int64_t c = 0; c < n; ++c) sum += grad_x[r * n + c];
                CHECK(std::fabs(sum) < 1e-7);
            }
        }
    }
}

template <typename T>
void norms_are_the_same_on_a_gpu() {
    for (const std::int64_t n : {1, 31, 32, 33, 256}) {
        for (const bool standardize : {false, true}) {
            const std::int64_t rows = 100;
            const auto x = waves<T>(rows * n, 0), residual = waves<T>(rows * n, 1);
            const auto weight = waves<T>(n, 2), bias = waves<T>(n, 3), grad = waves<T>(rows * n, 4);
            std::vector<T> out[2], grad_x[2], sums[2];
            for (const bool on_gpu : {false, true}) {
                for (auto* rows_of : {out, grad_x}) rows_of[on_gpu].resize(rows * n);
                const smoacs::NormJob<T> job{rows,          n,           standardize,
                                             T(1e-5),       x.data(),    residual.data(),
                                             weight.data(), bias.data(), out[on_gpu].data()};
                smoacs::NormGradientJob<T> gradient_job{
                    rows,        n,           standardize,
                    T(1e-5),     x.data(),    weight.data(),
                    bias.data(), grad.data(), grad_x[on_gpu].data(),
                    nullptr};
                sums[on_gpu].resize(2 * n * smoacs::n_chunks(gradient_job));
                if (on_gpu) {
                    smoacs::cuda::norm_silu(job, 0);
                    smoacs::cuda::norm_silu_backward(gradient_job, 0);
                } else {
                    smoacs::cpu::norm_silu(job);
                    smoacs::cpu::norm_silu_backward(gradient_job);
                }
                const auto frozen = grad_x[on_gpu];
                gradient_job.chunk_sums = sums[on_gpu].data();
                if (on_gpu) {
                    smoacs::cuda::norm_silu_backward(gradient_job, 0);
                } else {
                    smoacs::cpu::norm_silu_backward(gradient_job);
                }
                CHECK(grad_x[on_gpu] == frozen);
            }
            CHECK(out[0] == out[1] && grad_x[0] == grad_x[1] && sums[0] == sums[1]);
        }
    }
}

// --- Tables --------------------------------------------------------------------------------------

void tables_follow_polynomials() {
    const std::int64_t knots = 9, n = 35;
    std::vector<double> table, values{-5.0, 0.0, 0.3, 1.9, 4.0, 4.4, 8.0, 9.5};
    for (std::int64_t k = 0; k < knots; ++k) {
        for (std::int64_t c = 0; c < n; ++c) table.push_back(std::pow(0.5 * k, 5) * (c + 1));
    }
    const smoacs::TableJob<double> job{8, knots, n, 0.0, 0.5, table.data(), values.data()};
    std::vector<double> out(8 * n), grad(8 * n, 1.0), slopes(8), grad_table(knots * n);
    smoacs::cpu::interpolate(job, out.data());
    smoacs::cpu::interpolate_backward(job, grad.data(), slopes.data());
    for (int i = 0; i < 8; ++i) {
        const double power = std::pow(values[i], 4), scale = 1 + std::fabs(values[i]) * power;
        for (std::int64_t c = 0; c < n; ++c) {
            CHECK(std::fabs(out[i * n + c] - values[i] * power * (c + 1)) < 1e-11 * n * scale);
        }
        CHECK(std::fabs(slopes[i] - 5 * power * n * (n + 1) / 2) < 1e-9 * n * n * scale);
    }
    // Weights of a row of the result add up to one.
    std::vector<std::int64_t> first(8), order(8), start(knots + 1);
    smoacs::cpu::first_knots(job, first.data());
    smoacs::cpu::group_rows(first.data(), 8, knots, order.data(), start.data());
    smoacs::cpu::table_backward(job, grad.data(), order.data(), start.data(), grad_table.data());
    for (std::int64_t c = 0; c < n; ++c) {
        double sum = 0;
        for (std::int64_t k = 0; k < knots; ++k) sum += grad_table[k * n + c];
        CHECK(std::fabs(sum - 8) < 1e-9);
    }
}

template <typename T>
void tables_are_the_same_on_a_gpu() {
    const std::int64_t knots = 9, n = 35, size = 50;
    const auto table = waves<T>(knots * n, 0), values = waves<T>(size, 1),
               grad = waves<T>(size * n, 2);
    const smoacs::TableJob<T> job{size, knots, n, -1.5, 0.4, table.data(), values.data()};
    std::vector<T> out(size * n), slopes(size), grad_table(knots * n);
    std::vector<T> same_out(out), same_slopes(slopes), same_grad_table(grad_table);
    std::vector<std::int64_t> first(size), same_first(size), order(size), start(knots + 1);
    smoacs::cpu::interpolate(job, out.data());
    smoacs::cpu::interpolate_backward(job, grad.data(), slopes.data());
    smoacs::cpu::first_knots(job, first.data());
    smoacs::cpu::group_rows(first.data(), size, knots, order.data(), start.data());
    smoacs::cpu::table_backward(job, grad.data(), order.data(), start.data(), grad_table.data());
    smoacs::cuda::interpolate(job, same_out.data(), 0);
    smoacs::cuda::interpolate_backward(job, grad.data(), same_slopes.data(), 0);
    smoacs::cuda::first_knots(job, same_first.data(), 0);
    smoacs::cuda::table_backward(job, grad.data(), order.data(), start.data(),
                                 same_grad_table.data(), 0);
    CHECK(out == same_out && slopes == same_slopes && first == same_first);
    CHECK(grad_table == same_grad_table);
}

// --- Convolution ---------------------------------------------------------------------------------

// All results of a convolution and of its gradients, in one array. What it hands from forward to
// backward equals its steps' results, which the Python tests compare with torch.
template <typename T>
std::vector<T> convolve(const Messages<T>& graph, int threads) {
    smoacs::cpu::set_num_threads(threads);
    const std::int64_t f = graph.width, n = graph.nodes, e = graph.edges;
    std::vector<std::vector<T>> weights;
    for (int i = 0; i < 14; ++i) weights.push_back(waves<T>(i < 10 && i % 2 == 0 ? f * f : f, i));
    const auto map = [&](int i) {
        return smoacs::cpu::LinearMap<T>{weights[2 * i].data(), weights[2 * i + 1].data()};
    };
    const auto norm = [&](int i) {
        return smoacs::cpu::Norm<T>{true, T(1e-5), weights[2 * i].data(),
                                    weights[2 * i + 1].data()};
    };
    const smoacs::cpu::ConvolutionLayer<T> layer{map(0), map(1),  map(2),  map(3),
                                                 map(4), norm(5), norm(6), T(1e-6)};
    const auto x = waves<T>(n * f, 0.5), y = waves<T>(e * f, 0.7);
    const T empty = T(NAN);
    std::vector<T> x_out(n * f, empty), y_out(e * f, empty), logits(y_out), values(x_out),
        mean(x_out), norms(x_out), hidden(x_out), grad_x(x_out), grad_y(y_out);
    smoacs::cpu::convolution<T>({graph.ends(), layer, x.data(), y.data(), x_out.data(),
                                 y_out.data(), logits.data(), values.data(), mean.data(),
                                 norms.data(), hidden.data()});
    smoacs::cpu::convolution_backward<T>({graph.ends(), layer, logits.data(), values.data(),
                                          mean.data(), norms.data(), hidden.data(), x.data(),
                                          y.data(), grad_x.data(), grad_y.data()});
    for (const auto* more : {&y_out, &grad_x, &grad_y}) {
        x_out.insert(x_out.end(), more->begin(), more->end());
    }
    for (const T value : x_out) CHECK(std::isfinite(value));
    return x_out;
}

template <typename T>
void convolutions_do_not_depend_on_the_work_plan() {
    for (const std::int64_t block : {5, 1000}) {  // many small crystals, or one
        const Messages<T> graph(1000, 6000, 40, block);
        const auto expected = convolve(graph, 1);
        for (const int threads : {2, 5}) CHECK(convolve(graph, threads) == expected);
    }
    convolve(Messages<T>(3, 0, 7, 3), 2);  // no edges
}

// --- Lattice attention ---------------------------------------------------------------------------

// Crystals of three atoms, and one without any.
template <typename T>
struct Lattice {
    static constexpr std::int64_t kHeadWidth = 5;
    std::int64_t atoms, heads, functions;
    std::vector<std::int64_t> ptr, first_term, image_of;
    std::vector<T> lengths, squares, reach, vectors, decay, added, centers;
    std::vector<T> out, level, radial, grad_out;
    std::vector<T> grad_vectors, grad_decay, grad_lengths, grad_squares;

    Lattice(std::int64_t crystals, std::int64_t heads, std::int64_t functions)
        : atoms(3 * crystals), heads(heads), functions(functions) {
        for (std::int64_t c = 0; c <= crystals; ++c) ptr.push_back(3 * c);
        ptr.push_back(atoms);
        for (std::int64_t a = 0; a < atoms; ++a) {
            first_term.push_back(static_cast<std::int64_t>(image_of.size()));
            for (std::int64_t t = 0; t < 5 * a % 17; ++t) {
                image_of.push_back(a - a % 3 + t * t % 3);
                reach.push_back(T(t % 4 == 3 ? 0.9 : 0));
            }
        }
        first_term.push_back(static_cast<std::int64_t>(image_of.size()));
        for (std::int64_t t = 0; t < first_term.back(); ++t) {
            lengths.push_back(T(std::fabs(4.5 * std::sin(1.0 + t))));
            squares.push_back(lengths[t] * lengths[t] * T(1.1));
        }
        const std::int64_t row = kHeadWidth * heads;
        vectors = waves<T>(3 * atoms * row, 1);
        for (T x : waves<T>(atoms * heads, 2)) decay.push_back(T(-0.6) + T(0.2) * x);
        for (std::int64_t k = 1; k <= functions; ++k) centers.push_back(T(0.25 * k));
        added = waves<T>(functions * row, 3);
        grad_out = waves<T>(atoms * row, 4);
        out = std::vector<T>(grad_out.size());
        radial = std::vector<T>(atoms * functions * heads);
        level = grad_decay = std::vector<T>(decay.size());
        grad_vectors = std::vector<T>(vectors.size());
        grad_lengths = grad_squares = std::vector<T>(lengths.size());
    }

    smoacs::cpu::LatticeSum<T> sum() const {
        return {atoms,
                static_cast<std::int64_t>(ptr.size()) - 1,
                first_term.back(),
                heads,
                kHeadWidth,
                functions,
                ptr.data(),
                first_term.data(),
                image_of.data(),
                lengths.data(),
                squares.data(),
                reach.data(),
                vectors.data(),
                decay.data(),
                added.data(),
                centers.data(),
                T(0.25)};
    }

    void forward() {
        smoacs::cpu::lattice_attention<T>({sum(), out.data(), level.data(), radial.data()});
    }

    void backward() {
        std::fill(grad_lengths.begin(), grad_lengths.end(), T(0));
        std::fill(grad_squares.begin(), grad_squares.end(), T(0));
        smoacs::cpu::lattice_attention_backward<T>(
            {sum(), out.data(), level.data(), grad_out.data(), grad_vectors.data(),
             grad_decay.data(), grad_lengths.data(), grad_squares.data()});
    }

    // What the gradients are gradients of.
    double objective() {
        forward();
        double total = 0;
        for (std::size_t i = 0; i < out.size(); ++i) total += grad_out[i] * out[i];
        return total;
    }

    T vector(std::int64_t atom, std::int64_t which, std::int64_t d, std::int64_t h) const {
        return vectors[((3 * atom + which) * kHeadWidth + d) * heads + h];
    }
};

void attention_follows_the_formula() {
    constexpr std::int64_t heads = 16, functions = 30, width = Lattice<double>::kHeadWidth;
    Lattice<double> given(2, heads, functions);
    given.forward();
    given.backward();
    for (std::int64_t i = 0; i < given.atoms * heads; ++i) {
        const std::int64_t a = i / heads, h = i % heads, last = given.first_term[a + 1];
        std::vector<double> radial(functions), out(width);
        double norm = 0;
        for (std::int64_t t = given.first_term[a]; t <= last; ++t) {
            const bool itself = t == last;
            if (!itself && std::sqrt(-0.5 / given.decay[i]) <= given.reach[t]) continue;
            const std::int64_t b = itself ? a : given.image_of[t];
            const double length = itself ? 0 : given.lengths[t];
            double exponent = itself ? 0 : given.decay[i] * given.squares[t];
            for (std::int64_t d = 0; d < width; ++d) {
                exponent += given.vector(a, 0, d, h) * given.vector(b, 1, d, h) / std::sqrt(5.0);
            }
            const double w = std::exp(exponent);
            norm += w;
            for (std::int64_t k = 0; k < functions; ++k) {
                radial[k] += w * std::exp(-8 * std::pow(length - given.centers[k], 2));
            }
            for (std::int64_t d = 0; d < width; ++d) out[d] += w * given.vector(b, 2, d, h);
        }
        for (std::int64_t k = 0; k < functions; ++k) {
            CHECK(std::fabs(given.radial[(a * functions + k) * heads + h] - radial[k] / norm) <
                  1e-14);
            for (std::int64_t d = 0; d < width; ++d) {
                out[d] += radial[k] * given.added[(k * width + d) * heads + h];
            }
        }
        for (std::int64_t d = 0; d < width; ++d) {
            CHECK(std::fabs(given.out[(a * width + d) * heads + h] - out[d] / norm) < 1e-14);
        }
    }
    CHECK(has_slopes(given, given.vectors, given.grad_vectors, 1e-5, 1e-6));
    CHECK(has_slopes(given, given.decay, given.grad_decay, 1e-5, 1e-6));
    CHECK(has_slopes(given, given.lengths, given.grad_lengths, 1e-5, 1e-6));
    CHECK(has_slopes(given, given.squares, given.grad_squares, 1e-5, 1e-6));
}

template <typename T>
void attention_does_not_depend_on_the_work_plan() {
    for (const std::int64_t functions : {1, 16, 70}) {
        Lattice<T> alone(100, 16, functions), together(100, 16, functions);
        smoacs::cpu::set_num_threads(1);
        alone.forward();
        alone.backward();
        smoacs::cpu::set_num_threads(5);
        together.forward();
        together.backward();
        CHECK(together.out == alone.out && together.radial == alone.radial);
        CHECK(together.grad_vectors == alone.grad_vectors);
        CHECK(together.grad_decay == alone.grad_decay);
        CHECK(together.grad_lengths == alone.grad_lengths);
        CHECK(together.grad_squares == alone.grad_squares);
    }
    smoacs::cpu::set_num_threads(0);
    Lattice<T> nothing(0, 8, 16);
    nothing.forward();
    nothing.backward();
}

}  // namespace

int main() {
    numbers();
    messages_follow_the_formula();
    messages_do_not_depend_on_the_work_plan<float>();
    messages_do_not_depend_on_the_work_plan<double>();
    messages_follow_nodes_only();
    graphs_without_edges_or_nodes();
    groups();
    norms_follow_the_formula();
    norms_are_the_same_on_a_gpu<float>();
    norms_are_the_same_on_a_gpu<double>();
    tables_follow_polynomials();
    tables_are_the_same_on_a_gpu<float>();
    tables_are_the_same_on_a_gpu<double>();
    convolutions_do_not_depend_on_the_work_plan<float>();
    convolutions_do_not_depend_on_the_work_plan<double>();
    attention_follows_the_formula();
    attention_does_not_depend_on_the_work_plan<float>();
    attention_does_not_depend_on_the_work_plan<double>();
    return 0;
}
