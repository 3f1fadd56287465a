// Which pairs of atoms a neighbour list holds, and in which order.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"

namespace smoacs {

enum class NeighborRule { radius, knn, knn_shell };

struct NeighborQuery {
    NeighborRule rule;
    double cutoff;         // Å
    std::int64_t k;        // neighbours per site; ignored by the rule radius
    double tie_tolerance;  // Å

    // ALIGNN v1's own rule, in its arithmetic.
    SMOACS_HD bool alignn() const { return rule == NeighborRule::knn_shell && tie_tolerance == 0; }

    // The rules that count neighbours take closer pairs for one atom; 0.15 Å is ALIGNN v1's.
    SMOACS_HD double min_distance() const { return rule == NeighborRule::knn ? 1e-4 : 0.15; }

    // How far neighbours of a site reach whose k-th neighbour is at `kth`: a shell is as thick as
    // the tolerance, and only knn is bound by the cutoff.
    SMOACS_HD double reach(double kth) const {
        const double shell = kth + tie_tolerance;
        return rule == NeighborRule::knn && shell > cutoff ? cutoff : shell;
    }

    // How often a pair is listed. `there` and `back` are its lengths from either end. In a shell
    // list, an edge belongs to the shell of its source or, reversed, to that of its destination;
    // ALIGNN v1 lists a bond between images of one atom once for each.
    SMOACS_HD int times(bool same_atom, double there, double back, double reach_src,
                        double reach_dst) const {
        switch (rule) {
            case NeighborRule::radius:
                return there <= cutoff;
            case NeighborRule::knn:
                return there > min_distance() && there <= reach_src;
            case NeighborRule::knn_shell:
                break;
        }
        const bool mine = there > min_distance() && there <= reach_src;
        const bool theirs = back > min_distance() && back <= reach_dst;
        return same_atom ? mine + theirs : mine || theirs;
    }

    // What neighbours of a site are sorted by first: distances that differ by rounding noise share
    // a rank. The odd offset keeps borders of ranks away from round numbers, which lattices like.
    SMOACS_HD double rank(double distance) const {
        return tie_tolerance > 0 ? std::floor(distance / tie_tolerance + 0.38196601125) : distance;
    }
};

// Radius within which a site of a homogeneous crystal has a few more than k neighbours.
SMOACS_HD double expected_radius(double n_sites, double volume, std::int64_t k) {
    const double wanted = 3 * static_cast<double>(k + 4) / (4 * 3.141592653589793);
    return 1.2 * std::cbrt(wanted * volume / n_sites);
}

// Number of pairs of a homogeneous crystal.
SMOACS_HD double expected_pairs(double n_sites, double volume, double radius) {
    return n_sites * n_sites * (4 * 3.141592653589793 / 3) * radius * radius * radius / volume;
}

// Longer lists are refused, and crystals with more images of their atoms within the radius.
constexpr double kMaxPairs = 2147483647;
constexpr double kMaxImages = 1 << 24;

}  // namespace smoacs
