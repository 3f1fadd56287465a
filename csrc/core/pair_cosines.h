// Cosines of the angles between the bonds of pairs, and their gradients; shared by CPU and GPU.
//
// Bond a of a pair ends where bond b starts, so that the angle at the atom they share has the
// cosine
// -(v_a . v_b) / (|v_a| |v_b|). Pairs are the edges of a graph whose nodes are the bonds. A bond's
// gradient is summed up in the order of its pairs: no atomic additions.
//
// Rows that are no pairs, with E at both ends, have the cosine 0 and no gradient, and so have the
// pairs of a bond without length. Any other end that is no bond makes NaN of the pair and of the
// gradient of its other bond, and is never followed.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/gated_messages.h"
#include "core/macros.h"
#include "core/vec3.h"

namespace smoacs {

template <typename T>
struct CosineJob {
    EdgeEnds pairs;      // nodes: the E bonds
    const T* vectors;    // (E, 3)
    double* directions;  // (E, 4), left for the gradients: unit vector, inverse length
    T* cosines;          // (P)
};

template <typename T>
struct CosineGradientJob {
    EdgeEnds pairs;
    const double* directions;  // (E, 4)
    const T* grad;             // (P)
    T* grad_vectors;           // (E, 3)
};

namespace detail {

SMOACS_HD Vec3 direction(const double* directions, std::int64_t bond) {
    const double* row = directions + 4 * bond;
    return {row[0], row[1], row[2]};
}

}  // namespace detail

// Zeros for a bond without length.
template <typename T>
SMOACS_HD void bond_direction(const CosineJob<T>& job, std::int64_t bond) {
    const Vec3 vector = load_row(job.vectors, bond);
    const double norm = length(vector), inverse = norm == 0 ? 0 : 1 / norm;
    double* row = job.directions + 4 * bond;
    row[0] = inverse * vector.x;
    row[1] = inverse * vector.y;
    row[2] = inverse * vector.z;
    row[3] = inverse;
}

// The directions must be there.
template <typename T>
SMOACS_HD void pair_cosine(const CosineJob<T>& job, std::int64_t pair) {
    const EdgeEnds& ends = job.pairs;
    const std::int64_t a = ends.src[pair], b = ends.dst[pair];
    double cosine = a == ends.n_nodes && b == ends.n_nodes ? 0 : NAN;
    if (ends.has(a) && ends.has(b)) {
        cosine = -dot(detail::direction(job.directions, a), detail::direction(job.directions, b));
        cosine = cosine < -1 ? -1 : (cosine > 1 ? 1 : cosine);
    }
    job.cosines[pair] = static_cast<T>(cosine);
}

// Gradient to the vector of a bond: to its direction, less the part along it.
template <typename T>
SMOACS_HD void cosine_gradient(const CosineGradientJob<T>& job, std::int64_t bond) {
    const EdgeEnds& ends = job.pairs;
    const Vec3 own = detail::direction(job.directions, bond);
    Vec3 sum{0, 0, 0};
    const auto add = [&](std::int64_t pair, std::int64_t partner) {
        if (!ends.has(partner)) {
            sum = {NAN, NAN, NAN};
            return;
        }
        const Vec3 other = detail::direction(job.directions, partner);
        const double cosine = dot(own, other);
        if (cosine < -1 || cosine > 1) return;  // clamped
        sum = sum - static_cast<double>(job.grad[pair]) * other;
    };
    for (std::int64_t p = ends.first_in[bond]; p < ends.first_in[bond + 1]; ++p) {
        add(ends.by_dst[p], ends.src[ends.by_dst[p]]);
    }
    for (std::int64_t p = ends.first_out[bond]; p < ends.first_out[bond + 1]; ++p) {
        add(ends.by_src[p], ends.dst[ends.by_src[p]]);
    }
    const double inverse = job.directions[4 * bond + 3];
    store_row(job.grad_vectors, bond, inverse * (sum - dot(own, sum) * own));
}

}  // namespace smoacs
