// Sorting the neighbours of one atom.
#pragma once

#include <cstdint>
#include <vector>

namespace smoacs::cpu {

// Splits n distances among n buckets of ascending distance. Neighbours fill space evenly, so that
// the cube of the distance gives each bucket about one.
class Buckets {
  public:
    void fill(const double* distances, std::int64_t n);

    // Bucket of element i, and the number of elements in lower buckets.
    std::int32_t of(std::int64_t i) const { return of_[i]; }
    std::int32_t below(std::int64_t bucket) const { return below_[bucket]; }

    // Place of element i in a sequence sorted by bucket: the next free one. Uses up below().
    std::int32_t next_place(std::int64_t i) { return below_[of_[i]]++; }

  private:
    std::vector<std::int32_t> of_, below_;
};

// Sorts keys that belong to distances; the same key must not occur twice.
class KeySorter {
  public:
    // The order of the keys is that of the distances, except where those are nearly equal.
    void sort(std::vector<std::uint64_t>& keys, const std::vector<double>& distances);

  private:
    Buckets buckets_;
    std::vector<std::uint64_t> sorted_;
};

// k-th smallest of n distances, 1 <= k <= n. Reorders them.
class Selector {
  public:
    double kth(double* distances, std::int64_t n, std::int64_t k);

  private:
    Buckets buckets_;
};

}  // namespace smoacs::cpu
