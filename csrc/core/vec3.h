// Vectors and matrices of three, and how arrays hold them.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

namespace smoacs {

struct Vec3 {
    double x, y, z;
};

SMOACS_HD Vec3 operator+(Vec3 a, Vec3 b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
}
SMOACS_HD Vec3 operator-(Vec3 a, Vec3 b) {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
}
SMOACS_HD Vec3 operator*(double s, Vec3 a) {
    return {s * a.x, s * a.y, s * a.z};
}
SMOACS_HD double dot(Vec3 a, Vec3 b) {
    return a.x * b.x + a.y * b.y + a.z * b.z;
}
SMOACS_HD Vec3 cross(Vec3 a, Vec3 b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
SMOACS_HD double length(Vec3 a) {
    return std::sqrt(dot(a, a));
}

struct Mat3 {
    Vec3 row[3];
};

// Row vector times matrix, summed in the order of the rows.
SMOACS_HD Vec3 operator*(Vec3 f, const Mat3& m) {
    return {f.x * m.row[0].x + f.y * m.row[1].x + f.z * m.row[2].x,
            f.x * m.row[0].y + f.y * m.row[1].y + f.z * m.row[2].y,
            f.x * m.row[0].z + f.y * m.row[1].z + f.z * m.row[2].z};
}

SMOACS_HD Mat3 transposed(const Mat3& m) {
    return {{{m.row[0].x, m.row[1].x, m.row[2].x},
             {m.row[0].y, m.row[1].y, m.row[2].y},
             {m.row[0].z, m.row[1].z, m.row[2].z}}};
}

SMOACS_HD bool is_finite(Vec3 v) {
    return std::isfinite(v.x) && std::isfinite(v.y) && std::isfinite(v.z);
}

// Row i of an (n, 3) array and matrix i of an (n, 3, 3) array, in double precision.
template <typename T>
SMOACS_HD Vec3 load_row(const T* rows, std::int64_t i) {
    const T* row = rows + 3 * i;
    return {static_cast<double>(row[0]), static_cast<double>(row[1]), static_cast<double>(row[2])};
}
template <typename T>
SMOACS_HD Mat3 load_matrix(const T* matrices, std::int64_t i) {
    return {
        {load_row(matrices, 3 * i), load_row(matrices, 3 * i + 1), load_row(matrices, 3 * i + 2)}};
}
template <typename T>
SMOACS_HD void store_row(T* rows, std::int64_t i, Vec3 v) {
    T* row = rows + 3 * i;
    row[0] = static_cast<T>(v.x);
    row[1] = static_cast<T>(v.y);
    row[2] = static_cast<T>(v.z);
}

}  // namespace smoacs
