// What can be wrong with the crystals of a neighbour list.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/macros.h"

namespace smoacs {

enum class NeighborFault : std::int64_t {
    offsets,
    lattice_not_finite,
    no_volume,
    coords_not_finite,
    coords_too_large,
    too_many_pairs,
    too_many_images,
    shift_too_large
};

// A fault as one number, the smallest being reported: kind, crystal, site within the crystal.
SMOACS_HD std::int64_t neighbor_fault(NeighborFault kind, std::int64_t crystal,
                                      std::int64_t site = 0) {
    const std::int64_t last_site = (1 << 24) - 1;
    return static_cast<std::int64_t>(kind) << 56 | crystal << 24 |
           (site < last_site ? site : last_site);
}

constexpr std::int64_t kNoNeighborFault = INT64_MAX;

// One sentence.
inline std::string describe_neighbor_fault(std::int64_t fault) {
    const std::string crystal = "crystal " + std::to_string(fault >> 24 & 0xffffffff);
    const std::string site = "site " + std::to_string(fault & 0xffffff);
    switch (static_cast<NeighborFault>(fault >> 56)) {
        case NeighborFault::offsets:
            return "ptr must rise from 0 to the number of sites; it does not at " + crystal;
        case NeighborFault::lattice_not_finite:
            return crystal + ": the lattice is not finite";
        case NeighborFault::no_volume:
            return crystal + ": the lattice vectors span no volume";
        case NeighborFault::coords_not_finite:
            return crystal + ": the fractional coordinates of " + site + " are not finite";
        case NeighborFault::coords_too_large:
            return crystal + ": fractional coordinates are too large; wrap them";
        case NeighborFault::too_many_pairs:
            return crystal + ": there are more pairs than a list can hold; use a smaller cutoff";
        case NeighborFault::too_many_images:
            return crystal +
                   ": its cell has too many images; use a smaller cutoff or a larger cell";
        case NeighborFault::shift_too_large:
            return crystal + ": shifts do not fit into 32 bits; wrap the coordinates";
    }
    return "unknown fault";
}

[[noreturn]] inline void raise_neighbor_fault(NeighborFault kind, std::int64_t crystal,
                                              std::int64_t site = 0) {
    throw std::invalid_argument(describe_neighbor_fault(neighbor_fault(kind, crystal, site)));
}

}  // namespace smoacs
