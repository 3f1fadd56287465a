#include "cpu/sort_keys.h"

#include <algorithm>

#include "core/macros.h"

namespace smoacs::cpu {

namespace {

// Up to here comparing all with all, which takes no branches, beats sorting.
constexpr std::int64_t kFew = 96;

SMOACS_CLONES void sort_few(const std::uint64_t* keys, std::int64_t n, std::uint64_t* sorted) {
    for (std::int64_t i = 0; i < n; ++i) {
        // Signed comparison is one instruction; keys use 63 bits.
        const auto key = static_cast<std::int64_t>(keys[i]);
        std::int64_t smaller = 0;
        for (std::int64_t j = 0; j < n; ++j) smaller += static_cast<std::int64_t>(keys[j]) < key;
        sorted[smaller] = keys[i];
    }
}

}  // namespace

void Buckets::fill(const double* distances, std::int64_t n) {
    double farthest = 0;
    for (std::int64_t i = 0; i < n; ++i) farthest = std::max(farthest, distances[i]);
    const double volume = farthest * farthest * farthest;
    const double scale = volume > 0 ? static_cast<double>(n) / volume : 0;
    below_.assign(n + 2, 0);
    of_.resize(n);
    for (std::int64_t i = 0; i < n; ++i) {
        const double d = distances[i];
        of_[i] = static_cast<std::int32_t>(std::min(d * d * d * scale, static_cast<double>(n)));
        ++below_[of_[i] + 1];
    }
    for (std::int64_t b = 0; b <= n; ++b) below_[b + 1] += below_[b];
}

void KeySorter::sort(std::vector<std::uint64_t>& keys, const std::vector<double>& distances) {
    const auto n = static_cast<std::int64_t>(keys.size());
    sorted_.resize(n);
    if (n <= kFew) {
        sort_few(keys.data(), n, sorted_.data());
        keys.swap(sorted_);
        return;
    }
    buckets_.fill(distances.data(), n);
    for (std::int64_t i = 0; i < n; ++i) sorted_[buckets_.next_place(i)] = keys[i];
    keys.swap(sorted_);
    // What is left to do is inside of buckets or between adjacent ones.
    for (std::int64_t i = 1; i < n; ++i) {
        const std::uint64_t key = keys[i];
        std::int64_t j = i;
        for (; j > 0 && key < keys[j - 1]; --j) keys[j] = keys[j - 1];
        keys[j] = key;
    }
}

double Selector::kth(double* distances, std::int64_t n, std::int64_t k) {
    buckets_.fill(distances, n);
    std::int64_t bucket = 0;
    while (buckets_.below(bucket + 1) < k) ++bucket;
    std::int64_t inside = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        const double d = distances[i];
        distances[inside] = d;
        inside += buckets_.of(i) == bucket;
    }
    double* place = distances + (k - 1 - buckets_.below(bucket));
    std::nth_element(distances, place, distances + inside);
    return *place;
}

}  // namespace smoacs::cpu
