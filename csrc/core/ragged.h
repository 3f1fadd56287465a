// Offsets of ragged arrays: group c owns rows ptr[c] to ptr[c + 1].
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace smoacs {

// The group that owns a row; always one of 0 ... groups - 1.
SMOACS_HD std::int64_t group_of(const std::int64_t* ptr, std::int64_t groups, std::int64_t row) {
    std::int64_t low = 0, high = groups - 1;
    while (low < high) {
        const std::int64_t middle = low + (high - low + 1) / 2;
        if (ptr[middle] <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

}  // namespace smoacs
