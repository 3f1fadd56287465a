// What graph networks do around their matrix products. With a stream, addresses are on the device.
#include <pybind11/pybind11.h>

#include <array>
#include <string>

#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "cpu/activation.h"
#include "cpu/convolution.h"
#include "cpu/gated_messages.h"
#include "cpu/interpolation.h"
#include "cpu/lattice_attention.h"
#include "cpu/norm_silu.h"
#include "cpu/pair_cosines.h"
#ifdef SMOACS_WITH_CUDA
#include "cuda/gated_messages.h"
#include "cuda/interpolation.h"
#include "cuda/norm_silu.h"
#include "cuda/pair_cosines.h"
#endif

namespace py = pybind11;

namespace smoacs::bindings {

namespace {

using Address = std::uintptr_t;
using Release = py::call_guard<py::gil_scoped_release>;

// --- Gated messages ------------------------------------------------------------------------------

EdgeEnds make_ends(std::int64_t n_nodes, std::int64_t n_edges, std::int64_t n_features, Address src,
                   Address dst, Address by_src, Address first_out, Address by_dst,
                   Address first_in) {
    require_size(n_nodes, "n_nodes");
    require_size(n_edges, "n_edges");
    require(n_features >= 1, "there must be at least one feature");
    return {n_nodes,
            n_edges,
            n_features,
            pointer<const std::int64_t>(src, n_edges, "src"),
            pointer<const std::int64_t>(dst, n_edges, "dst"),
            pointer<const std::int64_t>(by_src, n_edges, "by_src"),
            pointer<const std::int64_t>(first_out, n_nodes + 1, "first_out"),
            pointer<const std::int64_t>(by_dst, n_edges, "by_dst"),
            pointer<const std::int64_t>(first_in, n_nodes + 1, "first_in")};
}

void gated_messages(const EdgeEnds& ends, Address edge, Address src_gate, Address dst_gate,
                    Address values, double eps, Address logits, Address mean, Address norm,
                    const std::string& dtype, const Stream& stream) {
    const std::int64_t of_edges = ends.n_edges * ends.n_features;
    const std::int64_t of_nodes = ends.n_nodes * ends.n_features;
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const MessageJob<T> job{ends,
                                static_cast<T>(eps),
                                pointer<const T>(edge, of_edges, "edge"),
                                pointer<const T>(src_gate, of_nodes, "src_gate"),
                                pointer<const T>(dst_gate, of_nodes, "dst_gate"),
                                pointer<const T>(values, of_nodes, "values"),
                                pointer<T>(logits, of_edges, "logits"),
                                pointer<T>(mean, of_nodes, "mean"),
                                pointer<T>(norm, of_nodes, "norm")};
        SMOACS_RUN(stream, cpu::gated_messages(job), cuda::gated_messages(job, *stream));
    });
}

void gated_messages_backward(const EdgeEnds& ends, Address logits, Address values, Address mean,
                             Address norm, std::optional<Address> grad_logits, Address grad_mean,
                             Address grad_total, Address grad_edge, Address grad_src_gate,
                             Address grad_dst_gate, Address grad_values, const std::string& dtype,
                             const Stream& stream) {
    const std::int64_t of_edges = ends.n_edges * ends.n_features;
    const std::int64_t of_nodes = ends.n_nodes * ends.n_features;
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const MessageGradientJob<T> job{
            ends,
            pointer<const T>(logits, of_edges, "logits"),
            pointer<const T>(values, of_nodes, "values"),
            pointer<const T>(mean, of_nodes, "mean"),
            pointer<const T>(norm, of_nodes, "norm"),
            grad_logits ? pointer<const T>(*grad_logits, of_edges, "grad_logits") : nullptr,
            pointer<const T>(grad_mean, of_nodes, "grad_mean"),
            pointer<T>(grad_total, of_nodes, "grad_total"),
            pointer<T>(grad_edge, of_edges, "grad_edge"),
            pointer<T>(grad_src_gate, of_nodes, "grad_src_gate"),
            pointer<T>(grad_dst_gate, of_nodes, "grad_dst_gate"),
            pointer<T>(grad_values, of_nodes, "grad_values")};
        SMOACS_RUN(stream, cpu::gated_messages_backward(job),
                   cuda::gated_messages_backward(job, *stream));
    });
}

void group_rows(std::int64_t n_rows, std::int64_t n_groups, Address group, Address rows,
                Address start) {
    require_size(n_rows, "n_rows");
    require_size(n_groups, "n_groups");
    cpu::group_rows(pointer<const std::int64_t>(group, n_rows, "group"), n_rows, n_groups,
                    pointer<std::int64_t>(rows, n_rows, "rows"),
                    pointer<std::int64_t>(start, n_groups + 1, "start"));
}

// --- Cosines of bond pairs -----------------------------------------------------------------------

void pair_cosines(const EdgeEnds& pairs, Address vectors, Address directions, Address cosines,
                  const std::string& dtype, const Stream& stream) {
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const CosineJob<T> job{pairs, pointer<const T>(vectors, 3 * pairs.n_nodes, "vectors"),
                               pointer<double>(directions, 4 * pairs.n_nodes, "directions"),
                               pointer<T>(cosines, pairs.n_edges, "cosines")};
        SMOACS_RUN(stream, cpu::pair_cosines(job), cuda::pair_cosines(job, *stream));
    });
}

void pair_cosines_backward(const EdgeEnds& pairs, Address directions, Address grad,
                           Address grad_vectors, const std::string& dtype, const Stream& stream) {
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const CosineGradientJob<T> job{
            pairs, pointer<const double>(directions, 4 * pairs.n_nodes, "directions"),
            pointer<const T>(grad, pairs.n_edges, "grad"),
            pointer<T>(grad_vectors, 3 * pairs.n_nodes, "grad_vectors")};
        SMOACS_RUN(stream, cpu::pair_cosines_backward(job),
                   cuda::pair_cosines_backward(job, *stream));
    });
}

// --- Convolution ---------------------------------------------------------------------------------

// Weight and bias of the five maps in the order of cpu::ConvolutionLayer, of the nodes' norm and of
// the edges'.
struct LayerInputs {
    std::array<Address, 14> weights;
    bool standardize;
    double norm_eps, eps;

    template <typename T>
    cpu::ConvolutionLayer<T> layer(std::int64_t f) const {
        const auto weight = [&](int i, std::int64_t size) {
            return pointer<const T>(weights[i], size, "weights");
        };
        const auto map = [&](int i) -> cpu::LinearMap<T> {
            return {weight(2 * i, f * f), weight(2 * i + 1, f)};
        };
        const auto norm = [&](int i) -> cpu::Norm<T> {
            return {standardize, static_cast<T>(norm_eps), weight(2 * i, f), weight(2 * i + 1, f)};
        };
        return {map(0), map(1), map(2), map(3), map(4), norm(5), norm(6), static_cast<T>(eps)};
    }
};

void require_cpu(const Stream& stream) {
    require(!stream, "convolutions in one operation run on the CPU only");
}

void convolution(const EdgeEnds& ends, const LayerInputs& in, Address x, Address y, Address x_out,
                 std::optional<Address> y_out, Address logits, Address values, Address mean,
                 Address norm, Address hidden, const std::string& dtype, const Stream& stream) {
    require_cpu(stream);
    const std::int64_t of_edges = ends.n_edges * ends.n_features;
    const std::int64_t of_nodes = ends.n_nodes * ends.n_features;
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        cpu::convolution<T>(
            {ends, in.layer<T>(ends.n_features), pointer<const T>(x, of_nodes, "x"),
             pointer<const T>(y, of_edges, "y"), pointer<T>(x_out, of_nodes, "x_out"),
             y_out ? pointer<T>(*y_out, of_edges, "y_out") : nullptr,
             pointer<T>(logits, of_edges, "logits"), pointer<T>(values, of_nodes, "values"),
             pointer<T>(mean, of_nodes, "mean"), pointer<T>(norm, of_nodes, "norm"),
             pointer<T>(hidden, of_nodes, "hidden")});
    });
}

void convolution_backward(const EdgeEnds& ends, const LayerInputs& in, Address logits,
                          Address values, Address mean, Address norm, Address hidden,
                          Address grad_x_out, std::optional<Address> grad_y_out, Address grad_x,
                          Address grad_y, const std::string& dtype, const Stream& stream) {
    require_cpu(stream);
    const std::int64_t of_edges = ends.n_edges * ends.n_features;
    const std::int64_t of_nodes = ends.n_nodes * ends.n_features;
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        cpu::convolution_backward<T>(
            {ends, in.layer<T>(ends.n_features), pointer<const T>(logits, of_edges, "logits"),
             pointer<const T>(values, of_nodes, "values"), pointer<const T>(mean, of_nodes, "mean"),
             pointer<const T>(norm, of_nodes, "norm"), pointer<const T>(hidden, of_nodes, "hidden"),
             pointer<const T>(grad_x_out, of_nodes, "grad_x_out"),
             grad_y_out ? pointer<const T>(*grad_y_out, of_edges, "grad_y_out") : nullptr,
             pointer<T>(grad_x, of_nodes, "grad_x"), pointer<T>(grad_y, of_edges, "grad_y")});
    });
}

// --- Activations, on the CPU ---------------------------------------------------------------------

void activate(cpu::Activation kind, std::int64_t n, Address x, Address out,
              const std::string& dtype) {
    require_size(n, "n");
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        cpu::activate(kind, n, pointer<const T>(x, n, "x"), pointer<T>(out, n, "out"));
    });
}

void activate_backward(cpu::Activation kind, std::int64_t n, Address x, Address grad,
                       Address grad_x, const std::string& dtype) {
    require_size(n, "n");
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        cpu::activate_backward(kind, n, pointer<const T>(x, n, "x"),
                               pointer<const T>(grad, n, "grad"), pointer<T>(grad_x, n, "grad_x"));
    });
}

// --- Normalised SiLU -----------------------------------------------------------------------------

void norm_silu(std::int64_t n_rows, std::int64_t n_columns, bool standardize, double eps, Address x,
               std::optional<Address> residual, Address weight, Address bias, Address out,
               const std::string& dtype, const Stream& stream) {
    require_size(n_rows, "n_rows");
    require(n_columns >= 1, "there must be at least one column");
    const std::int64_t size = n_rows * n_columns;
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const NormJob<T> job{n_rows,
                             n_columns,
                             standardize,
                             static_cast<T>(eps),
                             pointer<const T>(x, size, "x"),
                             residual ? pointer<const T>(*residual, size, "residual") : nullptr,
                             pointer<const T>(weight, n_columns, "weight"),
                             pointer<const T>(bias, n_columns, "bias"),
                             pointer<T>(out, size, "out")};
        SMOACS_RUN(stream, cpu::norm_silu(job), cuda::norm_silu(job, *stream));
    });
}

void norm_silu_backward(std::int64_t n_rows, std::int64_t n_columns, bool standardize, double eps,
                        Address x, Address weight, Address bias, Address grad, Address grad_x,
                        std::optional<Address> chunk_sums, const std::string& dtype,
                        const Stream& stream) {
    require_size(n_rows, "n_rows");
    require(n_columns >= 1, "there must be at least one column");
    const std::int64_t size = n_rows * n_columns;
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        NormGradientJob<T> job{n_rows,
                               n_columns,
                               standardize,
                               static_cast<T>(eps),
                               pointer<const T>(x, size, "x"),
                               pointer<const T>(weight, n_columns, "weight"),
                               pointer<const T>(bias, n_columns, "bias"),
                               pointer<const T>(grad, size, "grad"),
                               pointer<T>(grad_x, size, "grad_x"),
                               nullptr};
        if (chunk_sums) {
            job.chunk_sums = pointer<T>(*chunk_sums, n_chunks(job) * 2 * n_columns, "chunk_sums");
        }
        SMOACS_RUN(stream, cpu::norm_silu_backward(job), cuda::norm_silu_backward(job, *stream));
    });
}

// --- Tables --------------------------------------------------------------------------------------

// A table and the numbers to look up, as Python gives them.
struct Lookup {
    std::int64_t n_values, n_knots, n_columns;
    double low, step;
    Address table, values;
};

template <typename T>
TableJob<T> job_of(const Lookup& in) {
    require_size(in.n_values, "n_values");
    require(in.n_columns >= 1, "there must be at least one column");
    require(in.n_knots >= kStencil, "a table needs at least 6 rows");
    require(in.step > 0, "step must be positive");
    return {in.n_values,
            in.n_knots,
            in.n_columns,
            in.low,
            in.step,
            pointer<const T>(in.table, in.n_knots * in.n_columns, "table"),
            pointer<const T>(in.values, in.n_values, "values")};
}

void interpolate(const Lookup& in, Address out, const std::string& dtype, const Stream& stream) {
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto job = job_of<T>(in);
        T* rows = pointer<T>(out, in.n_values * in.n_columns, "out");
        SMOACS_RUN(stream, cpu::interpolate(job, rows), cuda::interpolate(job, rows, *stream));
    });
}

void interpolate_backward(const Lookup& in, Address grad, Address grad_values,
                          const std::string& dtype, const Stream& stream) {
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto job = job_of<T>(in);
        const T* rows = pointer<const T>(grad, in.n_values * in.n_columns, "grad");
        T* slopes = pointer<T>(grad_values, in.n_values, "grad_values");
        SMOACS_RUN(stream, cpu::interpolate_backward(job, rows, slopes),
                   cuda::interpolate_backward(job, rows, slopes, *stream));
    });
}

void first_knots(const Lookup& in, Address first, const std::string& dtype, const Stream& stream) {
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto job = job_of<T>(in);
        auto* rows = pointer<std::int64_t>(first, in.n_values, "first");
        SMOACS_RUN(stream, cpu::first_knots(job, rows), cuda::first_knots(job, rows, *stream));
    });
}

void table_backward(const Lookup& in, Address grad, Address by_first, Address start,
                    Address grad_table, const std::string& dtype, const Stream& stream) {
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto job = job_of<T>(in);
        const T* rows = pointer<const T>(grad, in.n_values * in.n_columns, "grad");
        const auto* order = pointer<const std::int64_t>(by_first, in.n_values, "by_first");
        const auto* starts = pointer<const std::int64_t>(start, in.n_knots + 1, "start");
        T* sums = pointer<T>(grad_table, in.n_knots * in.n_columns, "grad_table");
        SMOACS_RUN(stream, cpu::table_backward(job, rows, order, starts, sums),
                   cuda::table_backward(job, rows, order, starts, sums, *stream));
    });
}

// --- Lattice attention ---------------------------------------------------------------------------

// Terms and what the attention to them depends on, as Python gives them.
struct LatticeInputs {
    std::int64_t n_atoms, n_crystals, n_terms, n_heads, head_width, n_functions;
    Address ptr, first_term, image_of, lengths, squares;
    std::optional<Address> reach;
    Address vectors, decay, added, centers;
    double width;

    std::int64_t of_heads() const { return n_atoms * n_heads; }
    std::int64_t of_rows() const { return of_heads() * head_width; }
    std::int64_t of_functions() const { return of_heads() * n_functions; }

    template <typename T>
    cpu::LatticeSum<T> sum() const {
        require_size(n_atoms, "n_atoms");
        require_size(n_crystals, "n_crystals");
        require_size(n_terms, "n_terms");
        require(n_heads >= 1, "there must be at least one head");
        require(head_width >= 1, "heads must be at least one number wide");
        require(n_functions >= 1, "there must be at least one radial function");
        require(width > 0, "width must be positive");
        return {n_atoms,
                n_crystals,
                n_terms,
                n_heads,
                head_width,
                n_functions,
                pointer<const std::int64_t>(ptr, n_crystals + 1, "ptr"),
                pointer<const std::int64_t>(first_term, n_atoms + 1, "first_term"),
                pointer<const std::int64_t>(image_of, n_terms, "image_of"),
                pointer<const T>(lengths, n_terms, "lengths"),
                pointer<const T>(squares, n_terms, "squares"),
                reach ? pointer<const T>(*reach, n_terms, "reach") : nullptr,
                pointer<const T>(vectors, 3 * of_rows(), "vectors"),
                pointer<const T>(decay, of_heads(), "decay"),
                pointer<const T>(added, n_functions * head_width * n_heads, "added"),
                pointer<const T>(centers, n_functions, "centers"),
                static_cast<T>(width)};
    }
};

void lattice_attention(const LatticeInputs& in, Address out, Address level,
                       std::optional<Address> radial, const std::string& dtype,
                       const Stream& stream) {
    require(!stream, "lattice attention runs on the CPU only");
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        cpu::lattice_attention<T>(
            {in.sum<T>(), pointer<T>(out, in.of_rows(), "out"),
             pointer<T>(level, in.of_heads(), "level"),
             radial ? pointer<T>(*radial, in.of_functions(), "radial") : nullptr});
    });
}

void lattice_attention_backward(const LatticeInputs& in, Address out, Address level,
                                Address grad_out, Address grad_vectors, Address grad_decay,
                                Address grad_lengths, Address grad_squares,
                                const std::string& dtype, const Stream& stream) {
    require(!stream, "lattice attention runs on the CPU only");
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        cpu::lattice_attention_backward<T>(
            {in.sum<T>(), pointer<const T>(out, in.of_rows(), "out"),
             pointer<const T>(level, in.of_heads(), "level"),
             pointer<const T>(grad_out, in.of_rows(), "grad_out"),
             pointer<T>(grad_vectors, 3 * in.of_rows(), "grad_vectors"),
             pointer<T>(grad_decay, in.of_heads(), "grad_decay"),
             pointer<T>(grad_lengths, in.n_terms, "grad_lengths"),
             pointer<T>(grad_squares, in.n_terms, "grad_squares")});
    });
}

}  // namespace

void bind_layers(py::module_& m) {
    py::class_<EdgeEnds>(m, "EdgeEnds")
        .def(py::init(&make_ends), py::kw_only(), py::arg("n_nodes"), py::arg("n_edges"),
             py::arg("n_features"), py::arg("src"), py::arg("dst"), py::arg("by_src"),
             py::arg("first_out"), py::arg("by_dst"), py::arg("first_in"));
    m.def("gated_messages", &gated_messages, py::arg("ends"), py::kw_only(), py::arg("edge"),
          py::arg("src_gate"), py::arg("dst_gate"), py::arg("values"), py::arg("eps"),
          py::arg("logits"), py::arg("mean"), py::arg("norm"), py::arg("dtype"),
          py::arg("stream").none(true), Release());
    m.def("gated_messages_backward", &gated_messages_backward, py::arg("ends"), py::kw_only(),
          py::arg("logits"), py::arg("values"), py::arg("mean"), py::arg("norm"),
          py::arg("grad_logits").none(true), py::arg("grad_mean"), py::arg("grad_total"),
          py::arg("grad_edge"), py::arg("grad_src_gate"), py::arg("grad_dst_gate"),
          py::arg("grad_values"), py::arg("dtype"), py::arg("stream").none(true), Release());
    m.def("group_rows", &group_rows, py::kw_only(), py::arg("n_rows"), py::arg("n_groups"),
          py::arg("group"), py::arg("rows"), py::arg("start"), Release());

    m.def("pair_cosines", &pair_cosines, py::arg("pairs"), py::kw_only(), py::arg("vectors"),
          py::arg("directions"), py::arg("cosines"), py::arg("dtype"), py::arg("stream").none(true),
          Release());
    m.def("pair_cosines_backward", &pair_cosines_backward, py::arg("pairs"), py::kw_only(),
          py::arg("directions"), py::arg("grad"), py::arg("grad_vectors"), py::arg("dtype"),
          py::arg("stream").none(true), Release());

    py::class_<LayerInputs>(m, "ConvolutionLayer")
        .def(py::init<std::array<Address, 14>, bool, double, double>(), py::kw_only(),
             py::arg("weights"), py::arg("standardize"), py::arg("norm_eps"), py::arg("eps"));
    m.def("convolution", &convolution, py::arg("ends"), py::arg("layer"), py::kw_only(),
          py::arg("x"), py::arg("y"), py::arg("x_out"), py::arg("y_out").none(true),
          py::arg("logits"), py::arg("values"), py::arg("mean"), py::arg("norm"), py::arg("hidden"),
          py::arg("dtype"), py::arg("stream").none(true), Release());
    m.def("convolution_backward", &convolution_backward, py::arg("ends"), py::arg("layer"),
          py::kw_only(), py::arg("logits"), py::arg("values"), py::arg("mean"), py::arg("norm"),
          py::arg("hidden"), py::arg("grad_x_out"), py::arg("grad_y_out").none(true),
          py::arg("grad_x"), py::arg("grad_y"), py::arg("dtype"), py::arg("stream").none(true),
          Release());

    py::enum_<cpu::Activation>(m, "Activation")
        .value("sigmoid", cpu::Activation::sigmoid)
        .value("silu", cpu::Activation::silu)
        .value("softplus", cpu::Activation::softplus);
    m.def("activate", &activate, py::arg("kind"), py::kw_only(), py::arg("n"), py::arg("x"),
          py::arg("out"), py::arg("dtype"), Release());
    m.def("activate_backward", &activate_backward, py::arg("kind"), py::kw_only(), py::arg("n"),
          py::arg("x"), py::arg("grad"), py::arg("grad_x"), py::arg("dtype"), Release());

    m.attr("STENCIL") = kStencil;
    m.attr("ROWS_PER_CHUNK") = NormGradientJob<double>::kRowsPerChunk;
    m.def("norm_silu", &norm_silu, py::kw_only(), py::arg("n_rows"), py::arg("n_columns"),
          py::arg("standardize"), py::arg("eps"), py::arg("x"), py::arg("residual").none(true),
          py::arg("weight"), py::arg("bias"), py::arg("out"), py::arg("dtype"),
          py::arg("stream").none(true), Release());
    m.def("norm_silu_backward", &norm_silu_backward, py::kw_only(), py::arg("n_rows"),
          py::arg("n_columns"), py::arg("standardize"), py::arg("eps"), py::arg("x"),
          py::arg("weight"), py::arg("bias"), py::arg("grad"), py::arg("grad_x"),
          py::arg("chunk_sums").none(true), py::arg("dtype"), py::arg("stream").none(true),
          Release());

    py::class_<Lookup>(m, "Lookup")
        .def(py::init<std::int64_t, std::int64_t, std::int64_t, double, double, Address, Address>(),
             py::kw_only(), py::arg("n_values"), py::arg("n_knots"), py::arg("n_columns"),
             py::arg("low"), py::arg("step"), py::arg("table"), py::arg("values"));
    m.def("interpolate", &interpolate, py::arg("lookup"), py::kw_only(), py::arg("out"),
          py::arg("dtype"), py::arg("stream").none(true), Release());
    m.def("interpolate_backward", &interpolate_backward, py::arg("lookup"), py::kw_only(),
          py::arg("grad"), py::arg("grad_values"), py::arg("dtype"), py::arg("stream").none(true),
          Release());
    m.def("first_knots", &first_knots, py::arg("lookup"), py::kw_only(), py::arg("first"),
          py::arg("dtype"), py::arg("stream").none(true), Release());
    m.def("table_backward", &table_backward, py::arg("lookup"), py::kw_only(), py::arg("grad"),
          py::arg("by_first"), py::arg("start"), py::arg("grad_table"), py::arg("dtype"),
          py::arg("stream").none(true), Release());

    py::class_<LatticeInputs>(m, "LatticeSum")
        .def(py::init<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                      std::int64_t, Address, Address, Address, Address, Address,
                      std::optional<Address>, Address, Address, Address, Address, double>(),
             py::kw_only(), py::arg("n_atoms"), py::arg("n_crystals"), py::arg("n_terms"),
             py::arg("n_heads"), py::arg("head_width"), py::arg("n_functions"), py::arg("ptr"),
             py::arg("first_term"), py::arg("image_of"), py::arg("lengths"), py::arg("squares"),
             py::arg("reach").none(true), py::arg("vectors"), py::arg("decay"), py::arg("added"),
             py::arg("centers"), py::arg("width"));
    m.def("lattice_attention", &lattice_attention, py::arg("sum"), py::kw_only(), py::arg("out"),
          py::arg("level"), py::arg("radial").none(true), py::arg("dtype"),
          py::arg("stream").none(true), Release());
    m.def("lattice_attention_backward", &lattice_attention_backward, py::arg("sum"), py::kw_only(),
          py::arg("out"), py::arg("level"), py::arg("grad_out"), py::arg("grad_vectors"),
          py::arg("grad_decay"), py::arg("grad_lengths"), py::arg("grad_squares"), py::arg("dtype"),
          py::arg("stream").none(true), Release());
}

}  // namespace smoacs::bindings
