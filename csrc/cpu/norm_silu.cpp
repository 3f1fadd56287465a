#include "cpu/norm_silu.h"

#include <algorithm>

#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Less work than this, in numbers, is not worth waking another thread.
constexpr std::int64_t kWorkPerThread = 1 << 14;
constexpr int kRows = 4;  // at a time

template <typename T>
SMOACS_CLONES void forward_rows(const NormJob<T>& job, std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; row += kRows) {
        smoacs::norm_silu<kRows>(job, row,
                                 static_cast<int>(std::min<std::int64_t>(kRows, end - row)));
    }
}

template <typename T>
SMOACS_CLONES void backward_chunks(const NormGradientJob<T>& job, std::int64_t begin,
                                   std::int64_t end) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) norm_silu_gradients<kRows>(job, chunk);
}

template <typename Job>
int threads_for(const Job& job) {
    return num_threads(job.n_rows * job.n_columns / kWorkPerThread);
}

}  // namespace

template <typename T>
void norm_silu(const NormJob<T>& job, int threads) {
    share(job.n_rows, threads,
          [&](std::int64_t begin, std::int64_t end) { forward_rows(job, begin, end); });
}

template <typename T>
void norm_silu_backward(const NormGradientJob<T>& job, int threads) {
    share(n_chunks(job), threads,
          [&](std::int64_t begin, std::int64_t end) { backward_chunks(job, begin, end); });
}

template <typename T>
void norm_silu(const NormJob<T>& job) {
    norm_silu(job, threads_for(job));
}

template <typename T>
void norm_silu_backward(const NormGradientJob<T>& job) {
    norm_silu_backward(job, threads_for(job));
}

#define SMOACS_INSTANTIATE(T)                                    \
    template void norm_silu(const NormJob<T>&);                  \
    template void norm_silu(const NormJob<T>&, int);             \
    template void norm_silu_backward(const NormGradientJob<T>&); \
    template void norm_silu_backward(const NormGradientJob<T>&, int);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cpu
