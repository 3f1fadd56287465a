#include "cpu/order.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/macros.h"

namespace smoacs::cpu {

namespace {

// Up to here comparing all with all, which takes no branches, beats sorting.
constexpr std::int64_t kFew = 384;

// Numbers that are compared at once, 64 bytes: written out, since compilers do not find this way.
using Numbers [[gnu::vector_size(64)]] = std::int32_t;
using Values [[gnu::vector_size(64)]] = double;
using Counts [[gnu::vector_size(64)]] = std::int64_t;
constexpr std::int64_t kLanes = 16;  // of Numbers; loops read up to a multiple of it

// So many vectors of keys are ranked at once; most sites have fewer neighbours.
constexpr std::int64_t kVectors = 4;
constexpr std::int64_t kRanked = kVectors * kLanes;
static_assert(kRanked <= Order::kPadding);

SMOACS_CLONES void sort_few(const std::int32_t* keys, const std::int32_t* values, std::int64_t n,
                            std::int32_t* sorted) {
    for (std::int64_t first = 0; first < n; first += kRanked) {
        Numbers mine[kVectors], smaller[kVectors] = {};
        std::memcpy(mine, keys + first, sizeof mine);
        for (std::int64_t j = 0; j < n; ++j) {
            for (std::int64_t v = 0; v < kVectors; ++v) {
                smaller[v] = keys[j] < mine[v] ? smaller[v] + 1 : smaller[v];
            }
        }
        std::int32_t places[kRanked];
        std::memcpy(places, smaller, sizeof places);
        const std::int64_t rest = std::min(n - first, kRanked);
        for (std::int64_t i = 0; i < rest; ++i) sorted[places[i]] = values[first + i];
    }
}

// The largest value with fewer than k smaller ones.
SMOACS_CLONES double kth_of_few(const double* values, std::int64_t n, std::int64_t k) {
    const double none = -std::numeric_limits<double>::infinity();
    Values found[2] = {none - Values{}, none - Values{}};
    for (std::int64_t first = 0; first < n; first += kLanes) {
        Values mine[2];
        Counts smaller[2] = {};
        std::memcpy(mine, values + first, sizeof mine);
        for (std::int64_t j = 0; j < n; ++j) {
            smaller[0] -= values[j] < mine[0];
            smaller[1] -= values[j] < mine[1];
        }
        for (int half = 0; half < 2; ++half) {
            const Values value = smaller[half] < k ? mine[half] : none - Values{};
            found[half] = value > found[half] ? value : found[half];
        }
    }
    double out = none;
    for (int i = 0; i < kLanes; ++i) out = std::max(out, found[i / 8][i % 8]);
    return out;
}

}  // namespace

void Order::sort(std::int32_t* keys, const std::int32_t* values, std::int64_t n,
                 std::int32_t* sorted) {
    if (n > kFew) {
        pairs_.clear();
        for (std::int64_t i = 0; i < n; ++i) pairs_.emplace_back(keys[i], values[i]);
        std::sort(pairs_.begin(), pairs_.end());
        for (std::int64_t i = 0; i < n; ++i) sorted[i] = pairs_[i].second;
        return;
    }
    std::fill_n(keys + n, kPadding, 0);
    sort_few(keys, values, n, sorted);
}

double Order::kth(const double* values, std::int64_t n, std::int64_t k) {
    double* copy = values_.resize(n + kLanes);
    std::copy_n(values, n, copy);
    // Padding equals the first value, so that it is found only where that one is.
    std::fill_n(copy + n, kLanes, copy[0]);
    if (n <= kFew) return kth_of_few(copy, n, k);
    std::nth_element(copy, copy + (k - 1), copy + n);
    return copy[k - 1];
}

}  // namespace smoacs::cpu
