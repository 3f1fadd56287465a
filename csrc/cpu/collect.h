// The innermost loop of the neighbour search.
#pragma once

#include <cstdint>

namespace smoacs::cpu {

// Coordinates of n points.
struct Points {
    const float* x;
    const float* y;
    const float* z;
};

// Room that collect() may overwrite behind the last number it keeps.
constexpr std::int64_t kCollectPadding = 16;

// Instruction sets that the loop is written for.
enum class Simd { none, avx2, avx512 };

// The best of them that this computer has.
Simd best_simd();

// Appends the numbers begin ... end - 1 of all points within a distance of (x, y, z), in ascending
// order, to out[n ...] and returns the new n. What is not a number is within.
std::int64_t collect(Points points, std::int64_t begin, std::int64_t end, float x, float y, float z,
                     float distance, std::int32_t* out, std::int64_t n, Simd simd = best_simd());

}  // namespace smoacs::cpu
