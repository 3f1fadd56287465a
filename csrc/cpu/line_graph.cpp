#include "cpu/line_graph.h"

#include <algorithm>
#include <stdexcept>

#include "cpu/threads.h"

namespace smoacs::cpu {

LineGraph::LineGraph(const std::int64_t* src, const std::int64_t* dst, const bool* keep,
                     std::int64_t n_edges, bool self_pairs)
    : src_(src),
      dst_(dst),
      keep_(keep),
      n_edges_(n_edges),
      self_pairs_(self_pairs),
      starts_(n_edges + 1, 0) {
    std::int64_t n_sites = 0;
    for (std::int64_t e = 0; e < n_edges; ++e) {
        if (src[e] < 0 || dst[e] < 0) throw std::invalid_argument("negative site index");
        n_sites = std::max({n_sites, src[e] + 1, dst[e] + 1});
    }
    in_ptr_.assign(n_sites + 1, 0);
    for (std::int64_t e = 0; e < n_edges; ++e) in_ptr_[dst[e] + 1] += keep[e];
    for (std::int64_t v = 0; v < n_sites; ++v) in_ptr_[v + 1] += in_ptr_[v];
    in_edges_.resize(in_ptr_.back());
    std::vector<std::int64_t> next(in_ptr_.begin(), in_ptr_.end() - 1);
    for (std::int64_t e = 0; e < n_edges; ++e) {
        if (keep[e]) in_edges_[next[dst[e]]++] = e;
    }
    for (std::int64_t b = 0; b < n_edges; ++b) {
        std::int64_t count = 0;
        if (keep[b]) {
            count = in_ptr_[src[b] + 1] - in_ptr_[src[b]] - (!self_pairs && src[b] == dst[b]);
        }
        starts_[b + 1] = starts_[b] + count;
    }
}

void LineGraph::write(std::int64_t* first, std::int64_t* second, std::int64_t* pair_ptr) const {
#pragma omp parallel for schedule(static) num_threads(num_threads(n_pairs() / 4096))
    for (std::int64_t b = 0; b < n_edges_; ++b) {
        if (!keep_[b]) continue;
        std::int64_t t = starts_[b];
        for (std::int64_t m = in_ptr_[src_[b]]; m < in_ptr_[src_[b] + 1]; ++m) {
            if (!self_pairs_ && in_edges_[m] == b) continue;
            first[t] = in_edges_[m];
            second[t++] = b;
        }
    }
    std::copy(starts_.begin(), starts_.end(), pair_ptr);
}

}  // namespace smoacs::cpu
