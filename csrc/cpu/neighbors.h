// Neighbour lists of periodic crystals on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/neighbor_rules.h"
#include "cpu/buffer.h"
#include "cpu/image_cloud.h"

namespace smoacs::cpu {

// What was found around a site: images in the order of (site, shift), and their distances.
struct Neighbors {
    Image* images;
    double* distances;
    std::int64_t n;
};

// One thread's memory for searches and what they found.
struct Worker;

// A finished search, kept until the caller knows the size of the list and has allocated it.
class NeighborSearch {
  public:
    // Throws std::invalid_argument, naming the crystal, for non-finite input, a singular cell, or
    // a search that would not fit into memory.
    template <typename T>
    NeighborSearch(const Crystals<T>& crystals, const NeighborQuery& query);
    NeighborSearch(NeighborSearch&&) noexcept;
    ~NeighborSearch();

    std::int64_t n_edges() const { return starts_[n_sites()]; }

    // Writes n_edges() entries to src, dst and distance, three times as many to shift and C + 1 to
    // edge_ptr.
    template <typename T>
    void write(std::int64_t* src, std::int64_t* dst, std::int32_t* shift, T* distance,
               std::int64_t* edge_ptr) const;

  private:
    std::int64_t n_sites() const { return site_ptr_.back(); }

    std::vector<std::int64_t> site_ptr_;
    std::vector<std::unique_ptr<Worker>> workers_;
    Buffer<Neighbors> found_;      // (S) in the workers' memory
    Buffer<std::int64_t> starts_;  // (S + 1) number of edges before those of each site
};

}  // namespace smoacs::cpu
