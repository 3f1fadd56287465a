// The rule of a neighbour list, checked.
#pragma once

#include <cmath>
#include <string>

#include "bindings/checks.h"
#include "core/neighbor_rules.h"

namespace smoacs::bindings {

inline NeighborQuery make_query(const std::string& rule, double cutoff, std::int64_t k,
                                double tie_tolerance) {
    NeighborQuery query{NeighborRule::radius, cutoff, k, tie_tolerance};
    if (rule == "knn") {
        query.rule = NeighborRule::knn;
    } else if (rule == "knn_shell") {
        query.rule = NeighborRule::knn_shell;
    } else {
        require(rule == "radius", "rule must be radius, knn or knn_shell, got " + rule);
    }
    require(std::isfinite(cutoff) && cutoff > 0, "cutoff must be positive and finite");
    require(rule == "radius" || k >= 1, "k must be at least 1");
    require(std::isfinite(tie_tolerance) && tie_tolerance >= 0,
            "tie_tolerance must be finite and not negative");
    return query;
}

}  // namespace smoacs::bindings
