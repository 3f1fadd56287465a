#include "cpu/line_graph.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/line_graph_steps.h"
#include "cpu/memory.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Smallest and largest of some sites, also of those that are given.
SMOACS_CLONES void extend(const std::int64_t* sites, std::int64_t n, std::int64_t& low,
                          std::int64_t& high) {
    std::int64_t least = low, most = high;
    for (std::int64_t i = 0; i < n; ++i) {
        least = std::min(least, sites[i]);
        most = std::max(most, sites[i]);
    }
    low = least;
    high = most;
}

}  // namespace

LineGraph::LineGraph(const std::int64_t* src, const std::int64_t* dst, const bool* keep,
                     std::int64_t n_edges, bool self_pairs)
    : src_(src), dst_(dst), n_edges_(n_edges), self_pairs_(self_pairs) {
    std::int64_t low = 0, high = -1;
    extend(src, n_edges, low, high);
    extend(dst, n_edges, low, high);
    if (low < 0) throw std::invalid_argument("negative site index");
    const std::int64_t n_sites = high + 1;

    // Threads count the edges of their shares by destination, then know where to put them.
    const int threads = num_threads(n_edges / 4096);
    const auto share_edges = [&](auto&& work) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (int t = 0; t < threads; ++t)
            work(t, n_edges * t / threads, n_edges * (t + 1) / threads);
    };
    std::vector<std::int64_t> next(threads * n_sites, 0), ptr(n_sites + 1);
    share_edges([&](int t, std::int64_t begin, std::int64_t end) {
        std::int64_t* mine = next.data() + t * n_sites;
        for (std::int64_t e = begin; e < end; ++e) mine[dst[e]] += keep[e];
    });
    std::int64_t n_kept = 0;
    for (std::int64_t v = 0; v < n_sites; ++v) {
        ptr[v] = n_kept;
        for (int t = 0; t < threads; ++t) {
            n_kept += std::exchange(next[t * n_sites + v], n_kept);
        }
    }
    ptr[n_sites] = n_kept;
    by_dst_.resize(n_kept);
    first_.resize(n_edges);
    starts_.resize(n_edges + 1);
    starts_[0] = 0;
    std::vector<std::int64_t> before(threads + 1, 0);  // pairs of the shares before
    share_edges([&](int t, std::int64_t begin, std::int64_t end) {
        std::int64_t* mine = next.data() + t * n_sites;
        std::int64_t n_pairs = 0;
        for (std::int64_t e = begin; e < end; ++e) {
            if (keep[e]) by_dst_[mine[dst[e]]++] = e;
            const std::int64_t v = src[e];
            first_[e] = ptr[v];
            n_pairs += keep[e] ? ptr[v + 1] - ptr[v] - (!self_pairs && v == dst[e]) : 0;
            starts_[e + 1] = n_pairs;
        }
        before[t + 1] = n_pairs;
    });
    std::partial_sum(before.begin(), before.end(), before.begin());
    share_edges([&](int t, std::int64_t begin, std::int64_t end) {
        if (t == 0) return;
        for (std::int64_t e = begin; e < end; ++e) starts_[e + 1] += before[t];
    });
}

void LineGraph::write(std::int64_t* first, std::int64_t* second, std::int64_t* pair_ptr) const {
    use_large_pages(first, n_pairs() * sizeof *first);
    use_large_pages(second, n_pairs() * sizeof *second);
    const PairJob job{n_edges_,       src_,        dst_,      by_dst_.data(), first_.data(),
                      starts_.data(), self_pairs_, n_pairs(), first,          second};
#pragma omp parallel for schedule(static) num_threads(num_threads(n_pairs() / 4096))
    for (std::int64_t b = 0; b < n_edges_; ++b) fill_pairs<Alone>(job, b);
    std::copy_n(starts_.data(), n_edges_ + 1, pair_ptr);
}

}  // namespace smoacs::cpu
