// Order among the few neighbours of one atom.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/buffer.h"

namespace smoacs::cpu {

class Order {
  public:
    static constexpr std::int64_t kPadding = 64;

    // Writes n values in the order of their keys, no two of which are alike. Behind the keys there
    // are kPadding numbers that may be overwritten.
    void sort(std::int32_t* keys, const std::int32_t* values, std::int64_t n, std::int32_t* sorted);

    // k-th smallest of n values, 1 <= k <= n.
    double kth(const double* values, std::int64_t n, std::int64_t k);

  private:
    Buffer<double> values_;
    std::vector<std::pair<std::int32_t, std::int32_t>> pairs_;
};

}  // namespace smoacs::cpu
