#include "cpu/pair_cosines.h"

#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Fewer pairs than this are not worth waking another thread.
constexpr std::int64_t kPairsPerThread = 1 << 13;

template <typename T>
SMOACS_CLONES void directions(const CosineJob<T>& job, std::int64_t begin, std::int64_t end) {
    for (std::int64_t bond = begin; bond < end; ++bond) bond_direction(job, bond);
}

template <typename T>
SMOACS_CLONES void cosines(const CosineJob<T>& job, std::int64_t begin, std::int64_t end) {
    for (std::int64_t pair = begin; pair < end; ++pair) pair_cosine(job, pair);
}

template <typename T>
SMOACS_CLONES void gradients(const CosineGradientJob<T>& job, std::int64_t begin,
                             std::int64_t end) {
    for (std::int64_t bond = begin; bond < end; ++bond) cosine_gradient(job, bond);
}

template <typename Job>
int threads_for(const Job& job) {
    return num_threads(job.pairs.n_edges / kPairsPerThread);
}

}  // namespace

template <typename T>
void pair_cosines(const CosineJob<T>& job) {
    share(job.pairs.n_nodes, threads_for(job),
          [&](std::int64_t begin, std::int64_t end) { directions(job, begin, end); });
    share(job.pairs.n_edges, threads_for(job),
          [&](std::int64_t begin, std::int64_t end) { cosines(job, begin, end); });
}

template <typename T>
void pair_cosines_backward(const CosineGradientJob<T>& job) {
    share(job.pairs.n_nodes, threads_for(job),
          [&](std::int64_t begin, std::int64_t end) { gradients(job, begin, end); });
}

#define SMOACS_INSTANTIATE(T)                        \
    template void pair_cosines(const CosineJob<T>&); \
    template void pair_cosines_backward(const CosineGradientJob<T>&);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
