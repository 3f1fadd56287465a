// Pairs of edges that meet at a site, on the CPU.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"

namespace smoacs::cpu {

// Every pair of edges a = (u -> v), b = (v -> w), ordered by b, then a.
class LineGraph {
  public:
    // src and dst (n_edges): sites of the edges. keep (n_edges): edges to consider.
    // self_pairs: whether an edge from a site to its own image pairs with itself. src and dst must
    // outlive the object. Throws std::invalid_argument for a negative site index.
    LineGraph(const std::int64_t* src, const std::int64_t* dst, const bool* keep,
              std::int64_t n_edges, bool self_pairs);

    std::int64_t n_pairs() const { return starts_[n_edges_]; }

    // Writes n_pairs() entries to each of the first two, edge ids a and b, and n_edges + 1 offsets
    // of the pairs of each edge b.
    void write(std::int64_t* first, std::int64_t* second, std::int64_t* pair_ptr) const;

  private:
    const std::int64_t* src_;
    const std::int64_t* dst_;
    std::int64_t n_edges_;
    bool self_pairs_;
    Buffer<std::int64_t> by_dst_;  // kept edges grouped by destination, ascending
    Buffer<std::int64_t> first_;   // of them, for each edge b, that ends where b starts
    Buffer<std::int64_t> starts_;  // first pair of each edge b, then the total
};

}  // namespace smoacs::cpu
