// Sorting the neighbours of one atom.
#pragma once

#include <cstdint>
#include <vector>

namespace smoacs::cpu {

// The first n elements of a buffer that only ever grows.
template <typename T>
T* room(std::vector<T>& buffer, std::int64_t n) {
    if (static_cast<std::int64_t>(buffer.size()) < n) buffer.resize(n + n / 2);
    return buffer.data();
}

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

// Sorts distances by keys of 63 bits that have, nearly, the order of the distances. No key may
// occur twice.
class KeySorter {
  public:
    void sort(const std::uint64_t* keys, const double* distances, std::int64_t n);

    // The result, until the next call.
    const std::uint64_t* keys() const { return keys_.data(); }
    const double* distances() const { return distances_.data(); }

  private:
    Buckets buckets_;
    std::vector<std::uint64_t> keys_;
    std::vector<double> distances_;
};

// k-th smallest of n distances, 1 <= k <= n. Reorders them.
class Selector {
  public:
    double kth(double* distances, std::int64_t n, std::int64_t k);

  private:
    Buckets buckets_;
};

}  // namespace smoacs::cpu
