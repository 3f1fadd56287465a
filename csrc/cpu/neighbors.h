// Neighbour lists of periodic crystals on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/neighbor_rules.h"
#include "cpu/image_cloud.h"

namespace smoacs::cpu {

class CrystalNeighbors;  // of one crystal

// A finished search, kept until the caller knows the size of the list and has allocated it.
class NeighborSearch {
  public:
    // Throws std::invalid_argument, naming the crystal, for non-finite input, a singular cell, or
    // a search that would not fit into memory.
    template <typename T>
    NeighborSearch(const Crystals<T>& crystals, const NeighborQuery& query);
    NeighborSearch(NeighborSearch&&) noexcept;
    ~NeighborSearch();

    std::int64_t n_edges() const { return edge_ptr_.back(); }

    // Writes n_edges() entries to src, dst and distance, three times as many to shift and C + 1 to
    // edge_ptr.
    template <typename T>
    void write(std::int64_t* src, std::int64_t* dst, std::int32_t* shift, T* distance,
               std::int64_t* edge_ptr) const;

  private:
    // Calls work(c) for all crystals: small ones in parallel, then large ones, each in parallel.
    template <typename Work>
    void for_small_then_large(Work&& work) const;

    std::vector<std::unique_ptr<CrystalNeighbors>> crystals_;
    std::vector<std::int64_t> site_ptr_, edge_ptr_;
};

}  // namespace smoacs::cpu
