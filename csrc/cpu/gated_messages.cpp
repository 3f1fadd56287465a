#include "cpu/gated_messages.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Features at a time: their sums stay in the first-level cache.
constexpr int kWidth = 256;
// Less work than this, in edges times features, is not worth waking another thread.
constexpr std::int64_t kWorkPerThread = 1 << 14;

template <typename Job, void (*kStep)(const Job&, std::int64_t, std::int64_t, int)>
SMOACS_HD void run_node(const Job& job, std::int64_t node) {
    const std::int64_t n = job.ends.n_features;
    for (std::int64_t f = 0; f < n; f += kWidth) {
        kStep(job, node, f, static_cast<int>(std::min<std::int64_t>(kWidth, n - f)));
    }
}

template <typename T>
SMOACS_CLONES void gather(const MessageJob<T>& job, std::int64_t begin, std::int64_t end) {
    for (std::int64_t node = begin; node < end; ++node) {
        run_node<MessageJob<T>, gather_messages<kWidth, T>>(job, node);
    }
}

// The nodes that the edges out of a node lead to: from `first` to `last`, none if first > last.
struct Reach {
    std::int64_t first, last;
};

Reach reach_of(const EdgeEnds& ends, std::int64_t node) {
    Reach reach{ends.n_nodes, -1};
    for (std::int64_t p = ends.first_out[node]; p < ends.first_out[node + 1]; ++p) {
        const std::int64_t to = ends.dst[ends.by_src[p]];
        reach = {std::min(reach.first, to), std::max(reach.last, to)};
    }
    return reach;
}

// Gradients to the edges into the nodes from `begin` to `end`. Those to the edges' sources follow
// as soon as they can, while the edges are still in the cache; marks the nodes where they are done
// (`done` begins with the first node of the part).
template <typename T>
SMOACS_CLONES void gradients(const MessageGradientJob<T>& job, std::int64_t begin, std::int64_t end,
                             char* done) {
    using Job = MessageGradientJob<T>;
    std::int64_t source = begin;
    Reach reach = begin < end ? reach_of(job.ends, begin) : Reach{};
    for (std::int64_t node = begin; node < end; ++node) {
        run_node<Job, message_gradients_in<kWidth, T>>(job, node);
        while (source < end && (reach.last <= node || reach.last >= end)) {
            if (reach.first >= begin && reach.last < end) {
                run_node<Job, message_gradients_out<kWidth, T>>(job, source);
                done[source - job.ends.first_node] = 1;
            }
            if (++source < end) reach = reach_of(job.ends, source);
        }
    }
}

template <typename T>
SMOACS_CLONES void gradients_left(const MessageGradientJob<T>& job, std::int64_t begin,
                                  std::int64_t end, const char* done) {
    using Job = MessageGradientJob<T>;
    for (std::int64_t node = begin; node < end; ++node) {
        if (done[node - job.ends.first_node] != 0) continue;
        run_node<Job, message_gradients_out<kWidth, T>>(job, node);
    }
}

// Calls run(begin, end) in parallel for shares of the nodes from `begin` to `end` that have about
// equally many edges; `first` (N + 1) says where those of a node start.
template <typename Run>
void share_nodes(const std::int64_t* first, std::int64_t begin, std::int64_t end, int threads,
                 Run&& run) {
    const auto node_of = [&](std::int64_t edge) {
        return std::lower_bound(first + begin, first + end, first[begin] + edge) - first;
    };
    const std::int64_t n = first[end] - first[begin];
    share(n, threads, [&](std::int64_t from, std::int64_t to) {
        run(from == 0 ? begin : node_of(from), to == n ? end : node_of(to));
    });
}

int threads_for(const EdgeEnds& ends) {
    return num_threads(ends.n_edges * ends.n_features / kWorkPerThread);
}

}  // namespace

template <typename T>
void gated_messages(const MessageJob<T>& job, std::int64_t begin, std::int64_t end, int threads) {
    share_nodes(job.ends.first_in, begin, end, threads,
                [&](std::int64_t from, std::int64_t to) { gather(job, from, to); });
}

template <typename T>
void gated_messages_backward(const MessageGradientJob<T>& job, std::int64_t begin, std::int64_t end,
                             int threads) {
    std::vector<char> done(end - begin, 0);
    share_nodes(job.ends.first_in, begin, end, threads,
                [&](std::int64_t from, std::int64_t to) { gradients(job, from, to, done.data()); });
    share_nodes(job.ends.first_out, begin, end, threads, [&](std::int64_t from, std::int64_t to) {
        gradients_left(job, from, to, done.data());
    });
}

template <typename T>
void gated_messages(const MessageJob<T>& job) {
    gated_messages(job, 0, job.ends.n_nodes, threads_for(job.ends));
}

template <typename T>
void gated_messages_backward(const MessageGradientJob<T>& job) {
    gated_messages_backward(job, 0, job.ends.n_nodes, threads_for(job.ends));
}

void group_rows(const std::int64_t* group, std::int64_t n_rows, std::int64_t n_groups,
                std::int64_t* rows, std::int64_t* start) {
    std::fill(start, start + n_groups + 1, 0);
    for (std::int64_t i = 0; i < n_rows; ++i) {
        if (group[i] < 0 || group[i] > n_groups) {
            throw std::invalid_argument("row " + std::to_string(i) + " belongs to group " +
                                        std::to_string(group[i]) + ", but there are " +
                                        std::to_string(n_groups) + " groups");
        }
        if (group[i] < n_groups) ++start[group[i] + 1];
    }
    for (std::int64_t g = 0; g < n_groups; ++g) start[g + 1] += start[g];
    // start[g] moves on to the end of group g, which is where group g + 1 starts ...
    std::int64_t last = start[n_groups];
    for (std::int64_t i = 0; i < n_rows; ++i) {
        rows[group[i] < n_groups ? start[group[i]]++ : last++] = i;
    }
    // ... so that the starts have to move back by one place.
    std::copy_backward(start, start + n_groups, start + n_groups + 1);
    start[0] = 0;
}

#define SMOACS_INSTANTIATE(T)                                                            \
    template void gated_messages(const MessageJob<T>&);                                  \
    template void gated_messages(const MessageJob<T>&, std::int64_t, std::int64_t, int); \
    template void gated_messages_backward(const MessageGradientJob<T>&);                 \
    template void gated_messages_backward(const MessageGradientJob<T>&, std::int64_t,    \
                                          std::int64_t, int);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
