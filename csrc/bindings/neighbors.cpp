// Neighbour lists, line graphs and edge vectors. Results of unknown size are objects: the caller
// reads their size, allocates, and lets them write.
#include "cpu/neighbors.h"

#include <pybind11/pybind11.h>

#include <cmath>
#include <string>

#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "cpu/line_graph.h"

namespace py = pybind11;

namespace smoacs::bindings {

namespace {

using Address = std::uintptr_t;
using Release = py::call_guard<py::gil_scoped_release>;

cpu::NeighborQuery make_query(const std::string& rule, double cutoff, std::int64_t k,
                              double tie_tolerance) {
    cpu::NeighborQuery query{cpu::NeighborRule::radius, cutoff, k, tie_tolerance};
    if (rule == "knn") {
        query.rule = cpu::NeighborRule::knn;
    } else if (rule == "knn_shell") {
        query.rule = cpu::NeighborRule::knn_shell;
    } else {
        require(rule == "radius", "rule must be radius, knn or knn_shell, got " + rule);
    }
    require(std::isfinite(cutoff) && cutoff > 0, "cutoff must be positive and finite");
    require(rule == "radius" || k >= 1, "k must be at least 1");
    require(std::isfinite(tie_tolerance) && tie_tolerance >= 0,
            "tie_tolerance must be finite and not negative");
    return query;
}

cpu::NeighborList find_neighbors(Address frac_coords, Address lattice, Address ptr,
                                 std::int64_t n_sites, std::int64_t n_crystals,
                                 const std::string& dtype, const std::string& rule, double cutoff,
                                 std::int64_t k, double tie_tolerance) {
    require_size(n_sites, "n_sites");
    require_size(n_crystals, "n_crystals");
    const auto query = make_query(rule, cutoff, k, tie_tolerance);
    const auto* offsets = pointer<const std::int64_t>(ptr, n_crystals + 1, "ptr");
    require_offsets(offsets, n_crystals, n_sites);
    cpu::NeighborList list({}, 0);
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const cpu::Crystals<T> crystals{pointer<const T>(frac_coords, 3 * n_sites, "frac_coords"),
                                        pointer<const T>(lattice, 9 * n_crystals, "lattice"),
                                        offsets, n_crystals};
        list = cpu::find_neighbors(crystals, query);
    });
    return list;
}

void write_neighbors(const cpu::NeighborList& list, Address src, Address dst, Address shift,
                     Address distance, Address edge_ptr, const std::string& dtype) {
    const std::int64_t n = list.n_edges();
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        list.write(pointer<std::int64_t>(src, n, "src"), pointer<std::int64_t>(dst, n, "dst"),
                   pointer<std::int32_t>(shift, n, "shift"), pointer<T>(distance, n, "distance"),
                   pointer<std::int64_t>(edge_ptr, 1, "edge_ptr"));
    });
}

cpu::LineGraph find_pairs(Address src, Address dst, Address keep, std::int64_t n_edges,
                          bool self_pairs) {
    require_size(n_edges, "n_edges");
    return {pointer<const std::int64_t>(src, n_edges, "src"),
            pointer<const std::int64_t>(dst, n_edges, "dst"), pointer<const bool>(keep, 0, "keep"),
            n_edges, self_pairs};
}

void write_pairs(const cpu::LineGraph& graph, Address first, Address second) {
    graph.write(pointer<std::int64_t>(first, graph.n_pairs(), "first"),
                pointer<std::int64_t>(second, graph.n_pairs(), "second"));
}

}  // namespace

void bind_neighbors(py::module_& m) {
    py::class_<cpu::NeighborList>(m, "NeighborList")
        .def_property_readonly("n_edges", &cpu::NeighborList::n_edges)
        .def("write", &write_neighbors, py::arg("src"), py::arg("dst"), py::arg("shift"),
             py::arg("distance"), py::arg("edge_ptr"), py::arg("dtype"), Release());
    m.def("find_neighbors", &find_neighbors, py::arg("frac_coords"), py::arg("lattice"),
          py::arg("ptr"), py::arg("n_sites"), py::arg("n_crystals"), py::arg("dtype"),
          py::arg("rule"), py::arg("cutoff"), py::arg("k"), py::arg("tie_tolerance"), Release());
    py::class_<cpu::LineGraph>(m, "LineGraph")
        .def_property_readonly("n_pairs", &cpu::LineGraph::n_pairs)
        .def("write", &write_pairs, py::arg("first"), py::arg("second"), Release());
    m.def("find_pairs", &find_pairs, py::arg("src"), py::arg("dst"), py::arg("keep"),
          py::arg("n_edges"), py::arg("self_pairs"), Release());
}

}  // namespace smoacs::bindings
