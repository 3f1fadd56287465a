// CPU kernels of the gated message sums; core/gated_messages.h has the formulas.
#pragma once

#include "core/gated_messages.h"

namespace smoacs::cpu {

template <typename T>
void gated_messages(const MessageJob<T>& job);

template <typename T>
void gated_messages_backward(const MessageGradientJob<T>& job);

// The same by `threads` threads for a part of the graph that no edge leaves: the nodes from
// job.ends.first_node = `begin` to `end`.
template <typename T>
void gated_messages(const MessageJob<T>& job, std::int64_t begin, std::int64_t end, int threads);

template <typename T>
void gated_messages_backward(const MessageGradientJob<T>& job, std::int64_t begin, std::int64_t end,
                             int threads);

// Rows in ascending order of their group (N), and where each group starts (n_groups + 1); rows of
// group n_groups belong to none and come last. Throws std::invalid_argument for any other group.
void group_rows(const std::int64_t* group, std::int64_t n_rows, std::int64_t n_groups,
                std::int64_t* rows, std::int64_t* start);

}  // namespace smoacs::cpu
