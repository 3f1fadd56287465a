// CPU kernels of the gated message sums; core/gated_messages.h has the formulas.
#pragma once

#include "core/gated_messages.h"

namespace smoacs::cpu {

template <typename T>
void gated_messages(const MessageJob<T>& job);

template <typename T>
void gated_messages_backward(const MessageGradientJob<T>& job);

// Rows in ascending order of their group (N), and where each group starts (n_groups + 1). Throws
// std::invalid_argument if a group is not one of 0 ... n_groups - 1.
void group_rows(const std::int64_t* group, std::int64_t n_rows, std::int64_t n_groups,
                std::int64_t* rows, std::int64_t* start);

}  // namespace smoacs::cpu
