// Order among the few neighbours of one atom.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"

namespace smoacs::cpu {

class Order {
  public:
    // Sorts n numbers, no two alike.
    void sort(std::int32_t* numbers, std::int64_t n);

    // k-th smallest of n values, 1 <= k <= n.
    double kth(const double* values, std::int64_t n, std::int64_t k);

  private:
    Buffer<std::int32_t> numbers_;
    Buffer<double> values_;
};

}  // namespace smoacs::cpu
