// What the GPU runs for neighbour lists, line graphs and edge vectors, step by step. With a stream,
// addresses are on the device; without one, the same steps run on the CPU, for tests.
#include "cpu/steps.h"

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bindings.h"
#include "bindings/checks.h"
#include "bindings/neighbor_query.h"
#ifdef SMOACS_WITH_CUDA
#include "cuda/edge_vectors.h"
#include "cuda/line_graph.h"
#include "cuda/neighbors.h"
#endif

namespace py = pybind11;

namespace smoacs::bindings {

namespace {

using Address = std::uintptr_t;
using Release = py::call_guard<py::gil_scoped_release>;

class NeighborSteps {
  public:
    NeighborSteps(const std::string& rule, double cutoff, std::int64_t k, double tie_tolerance,
                  std::int64_t n_sites, std::int64_t n_crystals, Address frac_coords,
                  Address lattice, Address ptr, Address cells, Address sites, Address bin,
                  Address reach, Address longest_reach, Address last, Address counts,
                  Address faults, const Stream& stream)
        : stream_(stream) {
        require_size(n_sites, "n_sites");
        require_size(n_crystals, "n_crystals");
        require(n_crystals > 0 || n_sites == 0, "there are sites, but no crystal");
        job_.query = make_query(rule, cutoff, k, tie_tolerance);
        job_.n_sites = n_sites;
        job_.n_crystals = n_crystals;
        job_.frac_coords = pointer<const double>(frac_coords, n_sites, "frac_coords");
        job_.lattice = pointer<const double>(lattice, n_crystals, "lattice");
        job_.ptr = pointer<const std::int64_t>(ptr, n_crystals + 1, "ptr");
        job_.cells = pointer<SearchCell>(cells, n_crystals, "cells");
        job_.sites = pointer<SearchSite>(sites, n_sites, "sites");
        job_.bin = pointer<std::int64_t>(bin, n_sites, "bin");
        job_.reach = pointer<double>(reach, n_sites, "reach");
        job_.longest_reach = pointer<const double>(longest_reach, n_crystals, "longest_reach");
        job_.last = pointer<LastNeighbor>(last, n_sites, "last");
        job_.counts = pointer<std::int64_t>(counts, n_sites, "counts");
        job_.faults = pointer<std::int64_t>(faults, kAllSteps, "faults");
    }

    void prepare() { SMOACS_RUN(stream_, cpu::prepare(job_), cuda::prepare(job_, *stream_)); }

    void find_reach() {
        SMOACS_RUN(stream_, cpu::find_reach(job_), cuda::find_reach(job_, *stream_));
    }

    void count() { SMOACS_RUN(stream_, cpu::count(job_), cuda::count(job_, *stream_)); }

    void use_bins(Address by_bin, Address first) {
        job_.by_bin = pointer<const std::int64_t>(by_bin, job_.n_sites, "by_bin");
        job_.first = pointer<const std::int64_t>(first, job_.n_sites + 1, "first");
    }

    void fill(Address starts, Address arcs, Address src, Address dst, Address shift,
              Address distance, std::int64_t capacity, const std::string& dtype) {
        require_size(capacity, "capacity");
        job_.capacity = capacity;
        job_.starts = pointer<const std::int64_t>(starts, job_.n_sites + 1, "starts");
        job_.arcs = pointer<Arc>(arcs, capacity, "arcs");
        with_float_type(dtype, [&](auto zero) {
            using T = decltype(zero);
            const NeighborOutput<T> out{pointer<std::int64_t>(src, capacity, "src"),
                                        pointer<std::int64_t>(dst, capacity, "dst"),
                                        pointer<std::int32_t>(shift, capacity, "shift"),
                                        pointer<T>(distance, capacity, "distance")};
            SMOACS_RUN(stream_, cpu::fill(job_, out), cuda::fill(job_, out, *stream_));
        });
    }

  private:
    NeighborJob job_{};
    Stream stream_;
};

void fill_pairs(std::int64_t n_edges, Address src, Address dst, Address by_dst, Address first,
                Address starts, bool self_pairs, Address a, Address b, std::int64_t capacity,
                const Stream& stream) {
    require_size(n_edges, "n_edges");
    require_size(capacity, "capacity");
    const PairJob job{n_edges,
                      pointer<const std::int64_t>(src, n_edges, "src"),
                      pointer<const std::int64_t>(dst, n_edges, "dst"),
                      pointer<const std::int64_t>(by_dst, n_edges, "by_dst"),
                      pointer<const std::int64_t>(first, n_edges, "first"),
                      pointer<const std::int64_t>(starts, n_edges + 1, "starts"),
                      self_pairs,
                      capacity,
                      pointer<std::int64_t>(a, capacity, "a"),
                      pointer<std::int64_t>(b, capacity, "b")};
    SMOACS_RUN(stream, cpu::fill_pairs(job), cuda::fill_pairs(job, *stream));
}

// Edges and geometry as Python gives them.
struct EdgeInputs {
    std::int64_t n_sites, n_crystals, n_edges;
    Address frac_coords, lattice, src, dst, shift, edge_ptr;
};

template <typename T>
EdgeVectorJob<T> job_of(const EdgeInputs& in) {
    require_size(in.n_sites, "n_sites");
    require_size(in.n_crystals, "n_crystals");
    require_size(in.n_edges, "n_edges");
    require(in.n_crystals > 0 || in.n_edges == 0, "there are edges, but no crystal");
    return {in.n_sites,
            in.n_crystals,
            in.n_edges,
            pointer<const T>(in.frac_coords, in.n_sites, "frac_coords"),
            pointer<const T>(in.lattice, in.n_crystals, "lattice"),
            pointer<const std::int64_t>(in.src, in.n_edges, "src"),
            pointer<const std::int64_t>(in.dst, in.n_edges, "dst"),
            pointer<const std::int32_t>(in.shift, in.n_edges, "shift"),
            pointer<const std::int64_t>(in.edge_ptr, in.n_crystals + 1, "edge_ptr")};
}

void edge_vectors_in_steps(const EdgeInputs& in, Address out, const std::string& dtype,
                           const Stream& stream) {
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto job = job_of<T>(in);
        T* vectors = pointer<T>(out, in.n_edges, "out");
        SMOACS_RUN(stream, cpu::edge_vectors_in_steps(job, vectors),
                   cuda::edge_vectors(job, vectors, *stream));
    });
}

void edge_gradients_in_steps(const EdgeInputs& in, Address grad, Address by_src, Address first_out,
                             Address by_dst, Address first_in, std::int64_t n_chunks,
                             Address chunk_ptr, Address chunk_sums, Address grad_frac_coords,
                             Address grad_lattice, const std::string& dtype, const Stream& stream) {
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const EdgeGradientJob<T> job{
            job_of<T>(in),
            pointer<const T>(grad, in.n_edges, "grad"),
            pointer<const std::int64_t>(by_src, in.n_edges, "by_src"),
            pointer<const std::int64_t>(first_out, in.n_sites + 1, "first_out"),
            pointer<const std::int64_t>(by_dst, in.n_edges, "by_dst"),
            pointer<const std::int64_t>(first_in, in.n_sites + 1, "first_in"),
            n_chunks,
            pointer<const std::int64_t>(chunk_ptr, in.n_crystals + 1, "chunk_ptr"),
            pointer<double>(chunk_sums, n_chunks, "chunk_sums"),
            pointer<T>(grad_frac_coords, in.n_sites, "grad_frac_coords"),
            pointer<T>(grad_lattice, in.n_crystals, "grad_lattice")};
        SMOACS_RUN(stream, cpu::edge_gradients_in_steps(job), cuda::edge_gradients(job, *stream));
    });
}

}  // namespace

void bind_steps(py::module_& m) {
    m.attr("NO_NEIGHBOR_FAULT") = kNoNeighborFault;
    m.attr("NEIGHBOR_STEPS") = static_cast<int>(kAllSteps);
    m.attr("SEARCH_CELL_BYTES") = sizeof(SearchCell);
    m.attr("SEARCH_SITE_BYTES") = sizeof(SearchSite);
    m.attr("ARC_BYTES") = sizeof(Arc);
    m.attr("LAST_NEIGHBOR_BYTES") = sizeof(LastNeighbor);
    m.attr("EDGES_PER_CHUNK") = EdgeGradientJob<double>::kChunk;
    py::class_<NeighborSteps>(m, "NeighborSteps")
        .def(py::init<const std::string&, double, std::int64_t, double, std::int64_t, std::int64_t,
                      Address, Address, Address, Address, Address, Address, Address, Address,
                      Address, Address, Address, const Stream&>(),
             py::kw_only(), py::arg("rule"), py::arg("cutoff"), py::arg("k"),
             py::arg("tie_tolerance"), py::arg("n_sites"), py::arg("n_crystals"),
             py::arg("frac_coords"), py::arg("lattice"), py::arg("ptr"), py::arg("cells"),
             py::arg("sites"), py::arg("bin"), py::arg("reach"), py::arg("longest_reach"),
             py::arg("last"), py::arg("counts"), py::arg("faults"), py::arg("stream").none(true))
        .def("prepare", &NeighborSteps::prepare, Release())
        .def("use_bins", &NeighborSteps::use_bins, py::kw_only(), py::arg("by_bin"),
             py::arg("first"))
        .def("find_reach", &NeighborSteps::find_reach, Release())
        .def("count", &NeighborSteps::count, Release())
        .def("fill", &NeighborSteps::fill, py::kw_only(), py::arg("starts"), py::arg("arcs"),
             py::arg("src"), py::arg("dst"), py::arg("shift"), py::arg("distance"),
             py::arg("capacity"), py::arg("dtype"), Release());
    m.def("describe_neighbor_fault", &describe_neighbor_fault, py::arg("fault"));
    m.def("fill_pairs", &fill_pairs, py::kw_only(), py::arg("n_edges"), py::arg("src"),
          py::arg("dst"), py::arg("by_dst"), py::arg("first"), py::arg("starts"),
          py::arg("self_pairs"), py::arg("a"), py::arg("b"), py::arg("capacity"),
          py::arg("stream").none(true), Release());
    py::class_<EdgeInputs>(m, "EdgeInputs")
        .def(py::init<std::int64_t, std::int64_t, std::int64_t, Address, Address, Address, Address,
                      Address, Address>(),
             py::kw_only(), py::arg("n_sites"), py::arg("n_crystals"), py::arg("n_edges"),
             py::arg("frac_coords"), py::arg("lattice"), py::arg("src"), py::arg("dst"),
             py::arg("shift"), py::arg("edge_ptr"));
    m.def("edge_vectors_in_steps", &edge_vectors_in_steps, py::arg("inputs"), py::kw_only(),
          py::arg("out"), py::arg("dtype"), py::arg("stream").none(true), Release());
    m.def("edge_gradients_in_steps", &edge_gradients_in_steps, py::arg("inputs"), py::kw_only(),
          py::arg("grad"), py::arg("by_src"), py::arg("first_out"), py::arg("by_dst"),
          py::arg("first_in"), py::arg("n_chunks"), py::arg("chunk_ptr"), py::arg("chunk_sums"),
          py::arg("grad_frac_coords"), py::arg("grad_lattice"), py::arg("dtype"),
          py::arg("stream").none(true), Release());
}

}  // namespace smoacs::bindings
