#include "cpu/line_graph.h"

#include <algorithm>
#include <stdexcept>

#include "core/line_graph_steps.h"
#include "cpu/memory.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

LineGraph::LineGraph(const std::int64_t* src, const std::int64_t* dst, const bool* keep,
                     std::int64_t n_edges, bool self_pairs)
    : src_(src),
      dst_(dst),
      n_edges_(n_edges),
      self_pairs_(self_pairs),
      first_(n_edges),
      starts_(n_edges + 1, 0) {
    std::int64_t n_sites = 0;
    for (std::int64_t e = 0; e < n_edges; ++e) {
        if (src[e] < 0 || dst[e] < 0) throw std::invalid_argument("negative site index");
        n_sites = std::max({n_sites, src[e] + 1, dst[e] + 1});
    }
    std::vector<std::int64_t> ptr(n_sites + 1, 0);
    for (std::int64_t e = 0; e < n_edges; ++e) ptr[dst[e] + 1] += keep[e];
    for (std::int64_t v = 0; v < n_sites; ++v) ptr[v + 1] += ptr[v];
    by_dst_.resize(ptr.back());
    std::vector<std::int64_t> next(ptr.begin(), ptr.end() - 1);
    for (std::int64_t e = 0; e < n_edges; ++e) {
        if (keep[e]) by_dst_[next[dst[e]]++] = e;
    }
    for (std::int64_t b = 0; b < n_edges; ++b) {
        const std::int64_t v = src[b];
        const std::int64_t n = ptr[v + 1] - ptr[v] - (!self_pairs && v == dst[b]);
        first_[b] = ptr[v];
        starts_[b + 1] = starts_[b] + (keep[b] ? n : 0);
    }
}

void LineGraph::write(std::int64_t* first, std::int64_t* second, std::int64_t* pair_ptr) const {
    use_large_pages(first, n_pairs() * sizeof *first);
    use_large_pages(second, n_pairs() * sizeof *second);
    const PairJob job{n_edges_,       src_,        dst_,      by_dst_.data(), first_.data(),
                      starts_.data(), self_pairs_, n_pairs(), first,          second};
#pragma omp parallel for schedule(static) num_threads(num_threads(n_pairs() / 4096))
    for (std::int64_t b = 0; b < n_edges_; ++b) fill_pairs<Alone>(job, b);
    std::copy(starts_.begin(), starts_.end(), pair_ptr);
}

}  // namespace smoacs::cpu
