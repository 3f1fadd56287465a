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

// Points begin ... end - 1.
struct Run {
    std::int64_t begin, end;
};

// All points within a distance of (x, y, z), which is given by its square.
struct Ball {
    float x, y, z, square;
};

// Room that collect() may overwrite behind the last number it keeps.
constexpr std::int64_t kCollectPadding = 16;

// Instruction sets that the loop is written for.
enum class Simd { none, avx2, avx512 };

// The best of them that this computer has.
Simd best_simd();

// Writes the numbers of all points of some runs that are in a ball to `out`, in their order, and
// returns how many there are. What is not a number is within.
std::int64_t collect(Points points, const Run* runs, int n_runs, const Ball& ball,
                     std::int32_t* out, Simd simd = best_simd());

}  // namespace smoacs::cpu
