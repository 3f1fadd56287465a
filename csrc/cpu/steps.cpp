#include "cpu/steps.h"

#include <algorithm>

namespace smoacs::cpu {

namespace {

template <typename Step>
void for_all(std::int64_t n, Step&& step) {
    for (std::int64_t i = 0; i < n; ++i) step(i);
}

auto reporter(const NeighborJob& job, NeighborStep step) {
    return [smallest = job.faults + step](std::int64_t fault) {
        *smallest = std::min(*smallest, fault);
    };
}

}  // namespace

void prepare(const NeighborJob& job) {
    const auto raise_to = [](double* number, double least) { *number = std::max(*number, least); };
    for_all(job.n_crystals, [&](auto c) { prepare_cell(job, c, reporter(job, kCells)); });
    for_all(job.n_sites, [&](auto s) { prepare_site(job, s, reporter(job, kSites), raise_to); });
}

void find_reach(const NeighborJob& job) {
    for_all(job.n_sites, [&](auto s) { smoacs::find_reach<Alone>(job, s, reporter(job, kReach)); });
}

void count(const NeighborJob& job) {
    for_all(job.n_sites, [&](auto s) { smoacs::count<Alone>(job, s, reporter(job, kCount)); });
}

template <typename T>
void fill(const NeighborJob& job, const NeighborOutput<T>& out) {
    for_all(job.n_sites, [&](auto s) { fill_arcs<Alone>(job, s); });
    for_all(job.n_sites, [&](auto s) { smoacs::finish<Alone>(job, s, out); });
}

void fill_pairs(const PairJob& job) {
    for_all(job.n_edges, [&](auto b) { smoacs::fill_pairs<Alone>(job, b); });
}

template <typename T>
void edge_vectors_in_steps(const EdgeVectorJob<T>& job, T* out) {
    for_all(job.n_edges, [&](auto e) { edge_vector(job, e, out); });
}

template <typename T>
void edge_gradients_in_steps(const EdgeGradientJob<T>& job) {
    for_all(job.n_chunks, [&](auto number) { sum_chunk<Alone>(job, number); });
    for_all(job.edges.n_crystals, [&](auto c) { lattice_gradient(job, c); });
    for_all(job.edges.n_sites, [&](auto s) { site_gradient<Alone>(job, s); });
}

#define SMOACS_INSTANTIATE(T)                                         \
    template void fill(const NeighborJob&, const NeighborOutput<T>&); \
    template void edge_vectors_in_steps(const EdgeVectorJob<T>&, T*); \
    template void edge_gradients_in_steps(const EdgeGradientJob<T>&);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
