// The last step of a line graph on a GPU. Before it, edges are sorted by destination and the pairs
// of each edge counted with the device's own primitives.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/team.h"

namespace smoacs {

struct PairJob {
    std::int64_t n_edges;
    const std::int64_t* src;
    const std::int64_t* dst;
    const std::int64_t* by_dst;  // edges sorted by destination, ascending among equals
    const std::int64_t* first;   // (E) place in by_dst of the first edge that ends where b starts
    const std::int64_t* starts;  // (E + 1) offsets of the pairs of each edge b
    bool self_pairs;
    std::int64_t capacity;  // number of pairs that there is room for; the others are dropped
    std::int64_t* a;
    std::int64_t* b;
};

// Writes the pairs (a, b) of edge b.
template <typename Team>
SMOACS_LANES void fill_pairs(const PairJob& job, std::int64_t b) {
    const bool skips_itself = !job.self_pairs && job.src[b] == job.dst[b];
    const std::int64_t* ending_here = job.by_dst + job.first[b];
    const std::int64_t start = job.starts[b], room = job.capacity - start;
    const std::int64_t wanted = job.starts[b + 1] - start, n = wanted < room ? wanted : room;
    for (std::int64_t i = Team::rank(); i < n; i += Team::size) {
        const bool behind = skips_itself && ending_here[i] >= b;
        job.a[start + i] = ending_here[behind ? i + 1 : i];
        job.b[start + i] = b;
    }
}

}  // namespace smoacs
