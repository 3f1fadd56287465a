#include "cpu/sort_keys.h"

#include <algorithm>

#include "core/macros.h"

namespace smoacs::cpu {

namespace {

// Up to here comparing all with all, which takes no branches, beats sorting.
constexpr std::int64_t kFew = 96;

SMOACS_CLONES void sort_few(const std::uint64_t* keys, const double* distances, std::int64_t n,
                            std::uint64_t* sorted_keys, double* sorted_distances) {
    for (std::int64_t i = 0; i < n; ++i) {
        // Signed comparison is one instruction.
        const auto key = static_cast<std::int64_t>(keys[i]);
        std::int64_t smaller = 0;
        for (std::int64_t j = 0; j < n; ++j) smaller += static_cast<std::int64_t>(keys[j]) < key;
        sorted_keys[smaller] = keys[i];
        sorted_distances[smaller] = distances[i];
    }
}

}  // namespace

void Buckets::fill(const double* distances, std::int64_t n) {
    double farthest = 0;
    for (std::int64_t i = 0; i < n; ++i) farthest = std::max(farthest, distances[i]);
    const double volume = farthest * farthest * farthest;
    const double scale = volume > 0 ? static_cast<double>(n) / volume : 0;
    std::int32_t* of = room(of_, n);
    std::int32_t* below = room(below_, n + 2);
    std::fill(below, below + n + 2, 0);
    for (std::int64_t i = 0; i < n; ++i) {
        const double d = distances[i];
        of[i] = static_cast<std::int32_t>(std::min(d * d * d * scale, static_cast<double>(n)));
        ++below[of[i] + 1];
    }
    for (std::int64_t b = 0; b <= n; ++b) below[b + 1] += below[b];
}

void KeySorter::sort(const std::uint64_t* keys, const double* distances, std::int64_t n) {
    std::uint64_t* sorted_keys = room(keys_, n);
    double* sorted_distances = room(distances_, n);
    if (n <= kFew) return sort_few(keys, distances, n, sorted_keys, sorted_distances);
    buckets_.fill(distances, n);
    for (std::int64_t i = 0; i < n; ++i) {
        const std::int32_t place = buckets_.next_place(i);
        sorted_keys[place] = keys[i];
        sorted_distances[place] = distances[i];
    }
    // What is left to do is inside of buckets or between adjacent ones.
    for (std::int64_t i = 1; i < n; ++i) {
        const std::uint64_t key = sorted_keys[i];
        if (sorted_keys[i - 1] < key) continue;
        const double distance = sorted_distances[i];
        std::int64_t j = i;
        for (; j > 0 && key < sorted_keys[j - 1]; --j) {
            sorted_keys[j] = sorted_keys[j - 1];
            sorted_distances[j] = sorted_distances[j - 1];
        }
        sorted_keys[j] = key;
        sorted_distances[j] = distance;
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
