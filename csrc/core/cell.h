// Geometry of a periodic cell: reduction, wrapping, and the two ways to measure a pair.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/vec3.h"

namespace smoacs {

// Numbers of lattice vectors.
struct Shift {
    std::int64_t a, b, c;
};

SMOACS_HD Shift operator+(Shift s, Shift t) {
    return {s.a + t.a, s.b + t.b, s.c + t.c};
}
SMOACS_HD Shift operator-(Shift s, Shift t) {
    return {s.a - t.a, s.b - t.b, s.c - t.c};
}
SMOACS_HD bool operator==(Shift s, Shift t) {
    return s.a == t.a && s.b == t.b && s.c == t.c;
}
SMOACS_HD bool operator<(Shift s, Shift t) {
    if (s.a != t.a) return s.a < t.a;
    if (s.b != t.b) return s.b < t.b;
    return s.c < t.c;
}
SMOACS_HD Vec3 to_vec(Shift s) {
    return {static_cast<double>(s.a), static_cast<double>(s.b), static_cast<double>(s.c)};
}

// Vector from f_src to the image `shift` of f_dst. Swapping the ends and negating the shift negates
// the result exactly.
SMOACS_HD Vec3 pair_vector(const Mat3& lattice, Vec3 f_src, Vec3 f_dst, Vec3 shift) {
    return ((f_dst - f_src) + shift) * lattice;
}

// ALIGNN v1 measures bonds between Cartesian positions that come from a lattice rounded to five
// decimals, but moves images with the unrounded one. Which bonds tie depends on the last bit of
// this arithmetic, matrix products included: NumPy fuses multiply and add, except for a single row.
SMOACS_HD double rounded_to_5_decimals(double x) {
    return std::nearbyint(x * 1e5) / 1e5;
}
SMOACS_HD Mat3 rounded_lattice(const Mat3& m) {
    Mat3 out;
    for (int i = 0; i < 3; ++i) {
        out.row[i] = {rounded_to_5_decimals(m.row[i].x), rounded_to_5_decimals(m.row[i].y),
                      rounded_to_5_decimals(m.row[i].z)};
    }
    return out;
}
SMOACS_HD Vec3 position_alignn(const Mat3& rounded, Vec3 f, bool single) {
    if (single) return f * rounded;
    const Vec3* m = rounded.row;
    return {fma(f.z, m[2].x, fma(f.y, m[1].x, f.x * m[0].x)),
            fma(f.z, m[2].y, fma(f.y, m[1].y, f.x * m[0].y)),
            fma(f.z, m[2].z, fma(f.y, m[1].z, f.x * m[0].z))};
}
SMOACS_HD Vec3 pair_vector_alignn(const Mat3& lattice, Vec3 x_src, Vec3 x_dst, Vec3 shift) {
    return (shift * lattice + x_dst) - x_src;
}

// A cell and a compact (Minkowski-reduced) basis of the same lattice. In the compact basis the
// images within a radius fill a small box, however skewed the given vectors are.
struct Cell {
    Mat3 lattice;             // as given
    Mat3 reduced;             // rows: the compact basis
    std::int64_t to[3][3];    // reduced = to * lattice
    std::int64_t from[3][3];  // its inverse: lattice = from * reduced
    double spacing[3];        // distance between lattice planes of the compact basis
    double volume;

    // Fractional coordinates with respect to the compact basis.
    SMOACS_HD Vec3 compact(Vec3 f) const {
        double out[3];
        for (int k = 0; k < 3; ++k) {
            out[k] = f.x * static_cast<double>(from[0][k]) + f.y * static_cast<double>(from[1][k]) +
                     f.z * static_cast<double>(from[2][k]);
        }
        return {out[0], out[1], out[2]};
    }

    // Shift in the given basis of a shift in the compact basis.
    SMOACS_HD Shift given(Shift s) const {
        return {s.a * to[0][0] + s.b * to[1][0] + s.c * to[2][0],
                s.a * to[0][1] + s.b * to[1][1] + s.c * to[2][1],
                s.a * to[0][2] + s.b * to[1][2] + s.c * to[2][2]};
    }
};

enum class CellStatus { ok, not_finite, singular };

namespace detail {

// row i of the basis += n * row j, in integers; the vector is recomputed from the given lattice so
// that rounding errors do not pile up.
SMOACS_HD void add_row(Cell& cell, int i, int j, std::int64_t n) {
    for (int k = 0; k < 3; ++k) cell.to[i][k] += n * cell.to[j][k];
    Vec3 v{0, 0, 0};
    for (int k = 0; k < 3; ++k) v = v + static_cast<double>(cell.to[i][k]) * cell.lattice.row[k];
    cell.reduced.row[i] = v;
}

SMOACS_HD bool shorter(Vec3 a, Vec3 b) {
    return dot(a, a) < dot(b, b) * (1 - 1e-10);
}

SMOACS_HD bool shorten_by_one(Cell& cell) {
    bool changed = false;
    for (int i = 0; i < 3; ++i) {
        for (int step = 1; step < 3; ++step) {
            const int j = (i + step) % 3;
            const Vec3 a = cell.reduced.row[i], b = cell.reduced.row[j];
            const double n = -std::floor(dot(a, b) / dot(b, b) + 0.5);
            if (n != 0 && std::fabs(n) < 1e9 && shorter(a + n * b, a)) {
                add_row(cell, i, j, static_cast<std::int64_t>(n));
                changed = true;
            }
        }
    }
    return changed;
}

SMOACS_HD bool shorten_by_two(Cell& cell) {
    for (int i = 0; i < 3; ++i) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        for (int m = -1; m <= 1; m += 2) {
            for (int n = -1; n <= 1; n += 2) {
                const Vec3 a = cell.reduced.row[i];
                if (shorter(a + (m * cell.reduced.row[j] + n * cell.reduced.row[k]), a)) {
                    add_row(cell, i, j, m);
                    add_row(cell, i, k, n);
                    return true;
                }
            }
        }
    }
    return false;
}

}  // namespace detail

// Fills `cell` from lattice vectors in rows. A cell is singular when its volume is less than 1e-8
// of the box of its vectors' lengths.
SMOACS_HD CellStatus make_cell(const Mat3& lattice, Cell& cell) {
    for (int i = 0; i < 3; ++i) {
        if (!is_finite(lattice.row[i])) return CellStatus::not_finite;
    }
    cell.lattice = lattice;
    cell.volume = std::fabs(dot(lattice.row[0], cross(lattice.row[1], lattice.row[2])));
    const double box = length(lattice.row[0]) * length(lattice.row[1]) * length(lattice.row[2]);
    if (!std::isfinite(box)) return CellStatus::not_finite;
    if (!(cell.volume > 1e-8 * box)) return CellStatus::singular;

    cell.reduced = lattice;
    for (int i = 0; i < 3; ++i) {
        for (int k = 0; k < 3; ++k) cell.to[i][k] = i == k;
    }
    for (int step = 0; step < 200; ++step) {
        if (!detail::shorten_by_one(cell) && !detail::shorten_by_two(cell)) break;
    }
    // The inverse of an integer matrix with determinant +1 is its adjugate.
    for (int i = 0; i < 3; ++i) {
        const int i1 = (i + 1) % 3, i2 = (i + 2) % 3;
        for (int k = 0; k < 3; ++k) {
            const int k1 = (k + 1) % 3, k2 = (k + 2) % 3;
            cell.from[k][i] = cell.to[i1][k1] * cell.to[i2][k2] - cell.to[i1][k2] * cell.to[i2][k1];
        }
        cell.spacing[i] = cell.volume / length(cross(cell.reduced.row[i1], cell.reduced.row[i2]));
    }
    return CellStatus::ok;
}

}  // namespace smoacs
