// Order among the few neighbours of one atom.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/buffer.h"

namespace smoacs::cpu {

class Order {
  public:
    // Sorts n values by their keys, no two of which are alike.
    void sort(const std::int32_t* keys, std::int32_t* values, std::int64_t n);

    // k-th smallest of n values, 1 <= k <= n.
    double kth(const double* values, std::int64_t n, std::int64_t k);

  private:
    Buffer<std::int32_t> keys_, unsorted_;
    Buffer<double> values_;
    std::vector<std::pair<std::int32_t, std::int32_t>> pairs_;
};

}  // namespace smoacs::cpu
