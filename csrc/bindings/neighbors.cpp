// Neighbour lists, line graphs and edge vectors on the CPU. Results of unknown size are objects:
// the caller reads their size, allocates, and lets them write.
#include "cpu/neighbors.h"

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "bindings/neighbor_query.h"
#include "cpu/edge_vectors.h"
#include "cpu/line_graph.h"

namespace py = pybind11;

namespace smoacs::bindings {

namespace {

using Address = std::uintptr_t;
using Release = py::call_guard<py::gil_scoped_release>;

cpu::NeighborSearch find_neighbors(Address frac_coords, Address lattice, Address ptr,
                                   std::int64_t n_sites, std::int64_t n_crystals,
                                   const std::string& dtype, const std::string& rule, double cutoff,
                                   std::int64_t k, double tie_tolerance) {
    require_size(n_sites, "n_sites");
    require_size(n_crystals, "n_crystals");
    const auto query = make_query(rule, cutoff, k, tie_tolerance);
    const auto* offsets = pointer<const std::int64_t>(ptr, n_crystals + 1, "ptr");
    require_offsets(offsets, n_crystals, n_sites);
    std::optional<cpu::NeighborSearch> search;
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const cpu::Crystals<T> crystals{pointer<const T>(frac_coords, 3 * n_sites, "frac_coords"),
                                        pointer<const T>(lattice, 9 * n_crystals, "lattice"),
                                        offsets, n_crystals};
        search.emplace(crystals, query);
    });
    return std::move(*search);
}

void write_neighbors(const cpu::NeighborSearch& search, Address src, Address dst, Address shift,
                     Address distance, Address edge_ptr, const std::string& dtype) {
    const std::int64_t n = search.n_edges();
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        search.write(pointer<std::int64_t>(src, n, "src"), pointer<std::int64_t>(dst, n, "dst"),
                     pointer<std::int32_t>(shift, n, "shift"), pointer<T>(distance, n, "distance"),
                     pointer<std::int64_t>(edge_ptr, 1, "edge_ptr"));
    });
}

cpu::LineGraph find_pairs(Address src, Address dst, Address keep, std::int64_t n_edges,
                          bool self_pairs) {
    require_size(n_edges, "n_edges");
    return {pointer<const std::int64_t>(src, n_edges, "src"),
            pointer<const std::int64_t>(dst, n_edges, "dst"),
            pointer<const bool>(keep, n_edges, "keep"), n_edges, self_pairs};
}

void write_pairs(const cpu::LineGraph& graph, Address first, Address second, Address pair_ptr) {
    graph.write(pointer<std::int64_t>(first, graph.n_pairs(), "first"),
                pointer<std::int64_t>(second, graph.n_pairs(), "second"),
                pointer<std::int64_t>(pair_ptr, 1, "pair_ptr"));
}

cpu::Edges make_edges(Address src, Address dst, Address shift, Address edge_ptr,
                      std::int64_t n_rows, std::int64_t n_crystals, std::int64_t n_sites) {
    require_size(n_rows, "n_edges");
    require_size(n_crystals, "n_crystals");
    require_size(n_sites, "n_sites");
    const auto* offsets = pointer<const std::int64_t>(edge_ptr, n_crystals + 1, "edge_ptr");
    const std::int64_t n_edges = offsets[n_crystals];
    require_offsets(offsets, n_crystals, n_edges);
    require(n_edges <= n_rows, "the neighbour list has room for ", n_rows, " edges, but there are ",
            n_edges);
    return {pointer<const std::int64_t>(src, n_rows, "src"),
            pointer<const std::int64_t>(dst, n_rows, "dst"),
            pointer<const std::int32_t>(shift, n_rows, "shift"),
            offsets,
            n_rows,
            n_edges,
            n_crystals,
            n_sites};
}

void edge_vectors(Address frac_coords, Address lattice, Address src, Address dst, Address shift,
                  Address edge_ptr, Address out, std::int64_t n_edges, std::int64_t n_crystals,
                  std::int64_t n_sites, const std::string& dtype) {
    const auto edges = make_edges(src, dst, shift, edge_ptr, n_edges, n_crystals, n_sites);
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        cpu::edge_vectors(pointer<const T>(frac_coords, n_sites, "frac_coords"),
                          pointer<const T>(lattice, n_crystals, "lattice"), edges,
                          pointer<T>(out, n_edges, "out"));
    });
}

void edge_vectors_backward(Address grad, Address frac_coords, Address lattice, Address src,
                           Address dst, Address shift, Address edge_ptr, Address grad_frac_coords,
                           Address grad_lattice, std::int64_t n_edges, std::int64_t n_crystals,
                           std::int64_t n_sites, const std::string& dtype) {
    const auto edges = make_edges(src, dst, shift, edge_ptr, n_edges, n_crystals, n_sites);
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        cpu::edge_vectors_backward(pointer<const T>(grad, n_edges, "grad"),
                                   pointer<const T>(frac_coords, n_sites, "frac_coords"),
                                   pointer<const T>(lattice, n_crystals, "lattice"), edges,
                                   pointer<T>(grad_frac_coords, n_sites, "grad_frac_coords"),
                                   pointer<T>(grad_lattice, n_crystals, "grad_lattice"));
    });
}

}  // namespace

void bind_neighbors(py::module_& m) {
    py::class_<cpu::NeighborSearch>(m, "NeighborSearch")
        .def_property_readonly("n_edges", &cpu::NeighborSearch::n_edges)
        .def("write", &write_neighbors, py::arg("src"), py::arg("dst"), py::arg("shift"),
             py::arg("distance"), py::arg("edge_ptr"), py::arg("dtype"), Release());
    m.def("find_neighbors", &find_neighbors, py::arg("frac_coords"), py::arg("lattice"),
          py::arg("ptr"), py::arg("n_sites"), py::arg("n_crystals"), py::arg("dtype"),
          py::arg("rule"), py::arg("cutoff"), py::arg("k"), py::arg("tie_tolerance"), Release());
    py::class_<cpu::LineGraph>(m, "LineGraph")
        .def_property_readonly("n_pairs", &cpu::LineGraph::n_pairs)
        .def("write", &write_pairs, py::arg("first"), py::arg("second"), py::arg("pair_ptr"),
             Release());
    m.def("find_pairs", &find_pairs, py::arg("src"), py::arg("dst"), py::arg("keep"),
          py::arg("n_edges"), py::arg("self_pairs"), Release());
    m.def("edge_vectors", &edge_vectors, py::arg("frac_coords"), py::arg("lattice"), py::arg("src"),
          py::arg("dst"), py::arg("shift"), py::arg("edge_ptr"), py::arg("out"), py::arg("n_edges"),
          py::arg("n_crystals"), py::arg("n_sites"), py::arg("dtype"), Release());
    m.def("edge_vectors_backward", &edge_vectors_backward, py::arg("grad"), py::arg("frac_coords"),
          py::arg("lattice"), py::arg("src"), py::arg("dst"), py::arg("shift"), py::arg("edge_ptr"),
          py::arg("grad_frac_coords"), py::arg("grad_lattice"), py::arg("n_edges"),
          py::arg("n_crystals"), py::arg("n_sites"), py::arg("dtype"), Release());
}

}  // namespace smoacs::bindings
