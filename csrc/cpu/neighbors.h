// Neighbour lists of periodic crystals on the CPU.
#pragma once

#include <cstdint>
#include <vector>

namespace smoacs::cpu {

enum class NeighborRule { radius, knn, knn_shell };

// S sites in C crystals: frac_coords (S, 3) and lattice (C, 3, 3) row-major, ptr (C + 1) ascending
// from 0 to S.
template <typename T>
struct Crystals {
    const T* frac_coords;
    const T* lattice;
    const std::int64_t* ptr;
    std::int64_t n_crystals;
};

struct NeighborQuery {
    NeighborRule rule;
    double cutoff;         // Å
    std::int64_t k;        // neighbours per site; ignored by the rule radius
    double tie_tolerance;  // Å
};

struct Edge {
    std::int32_t dst;  // within the crystal
    std::int32_t shift[3];
    double distance;
};

// A finished list, kept in pieces until the caller knows its size and has allocated the result.
class NeighborList {
  public:
    // Edges of the sites first_site, first_site + 1, ...; site i has counts[i] of them.
    struct Piece {
        std::int64_t crystal;
        std::int64_t first_site;
        std::int64_t site_offset;  // global index of the crystal's first site
        std::vector<std::int32_t> counts;
        std::vector<Edge> edges;
    };

    NeighborList(std::vector<Piece> pieces, std::int64_t n_crystals);

    std::int64_t n_edges() const { return starts_.back(); }

    // Writes n_edges() entries to src, dst and distance, three times as many to shift and
    // n_crystals + 1 to edge_ptr.
    template <typename T>
    void write(std::int64_t* src, std::int64_t* dst, std::int32_t* shift, T* distance,
               std::int64_t* edge_ptr) const;

  private:
    std::vector<Piece> pieces_;
    std::vector<std::int64_t> starts_;  // first edge of each piece, then the total
    std::int64_t n_crystals_;
};

// Throws std::invalid_argument, naming the crystal, for non-finite input, a singular cell, or a
// search that would not fit into memory.
template <typename T>
NeighborList find_neighbors(const Crystals<T>& crystals, const NeighborQuery& query);

}  // namespace smoacs::cpu
