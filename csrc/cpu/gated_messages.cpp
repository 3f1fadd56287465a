#include "cpu/gated_messages.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Features at a time: their sums stay in the first-level cache.
constexpr int kWidth = 256;
// Less work than this, in edges times features, is not worth waking another thread.
constexpr std::int64_t kWorkPerThread = 1 << 14;

template <typename Job, void (*kStep)(const Job&, std::int64_t, std::int64_t, int)>
SMOACS_CLONES void run_nodes(const Job& job, std::int64_t begin, std::int64_t end) {
    const std::int64_t n = job.ends.n_features;
    for (std::int64_t node = begin; node < end; ++node) {
        for (std::int64_t f = 0; f < n; f += kWidth) {
            kStep(job, node, f, static_cast<int>(std::min<std::int64_t>(kWidth, n - f)));
        }
    }
}

// Shares out the nodes so that each thread has about equally many edges; `first` (N + 1) says
// where those of a node start.
template <typename Job, void (*kStep)(const Job&, std::int64_t, std::int64_t, int)>
void for_nodes(const Job& job, const std::int64_t* first) {
    const EdgeEnds& ends = job.ends;
    const auto node_of = [&](std::int64_t edge) {
        return edge == ends.n_edges ? ends.n_nodes
                                    : std::lower_bound(first, first + ends.n_nodes, edge) - first;
    };
    share(ends.n_edges, num_threads(ends.n_edges * ends.n_features / kWorkPerThread),
          [&](std::int64_t begin, std::int64_t end) {
              run_nodes<Job, kStep>(job, begin == 0 ? 0 : node_of(begin), node_of(end));
          });
}

}  // namespace

template <typename T>
void gated_messages(const MessageJob<T>& job) {
    for_nodes<MessageJob<T>, gather_messages<kWidth, T>>(job, job.ends.first_in);
}

template <typename T>
void gated_messages_backward(const MessageGradientJob<T>& job) {
    for_nodes<MessageGradientJob<T>, message_gradients_in<kWidth, T>>(job, job.ends.first_in);
    for_nodes<MessageGradientJob<T>, message_gradients_out<kWidth, T>>(job, job.ends.first_out);
}

void group_rows(const std::int64_t* group, std::int64_t n_rows, std::int64_t n_groups,
                std::int64_t* rows, std::int64_t* start) {
    std::fill(start, start + n_groups + 1, 0);
    for (std::int64_t i = 0; i < n_rows; ++i) {
        if (group[i] < 0 || group[i] >= n_groups) {
            throw std::invalid_argument("row " + std::to_string(i) + " belongs to group " +
                                        std::to_string(group[i]) + ", but there are " +
                                        std::to_string(n_groups) + " groups");
        }
        ++start[group[i] + 1];
    }
    for (std::int64_t g = 0; g < n_groups; ++g) start[g + 1] += start[g];
    // start[g] moves on to the end of group g, which is where group g + 1 starts ...
    for (std::int64_t i = 0; i < n_rows; ++i) rows[start[group[i]]++] = i;
    // ... so that the starts have to move back by one place.
    std::copy_backward(start, start + n_groups, start + n_groups + 1);
    start[0] = 0;
}

#define SMOACS_INSTANTIATE(T)                           \
    template void gated_messages(const MessageJob<T>&); \
    template void gated_messages_backward(const MessageGradientJob<T>&);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
