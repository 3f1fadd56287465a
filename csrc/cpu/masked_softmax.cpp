#include "cpu/masked_softmax.h"

#include <algorithm>

#include "cpu/softmax_sites.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Fewer sites than this per thread are not worth waking it.
constexpr std::int64_t kSitesPerThread = 128;

template <typename T>
int threads_for(const SoftmaxBatch<T>& batch) {
    return num_threads(batch.n_sites / kSitesPerThread);
}

// The kernels for this processor.
template <typename T>
SiteKernels<T> best_site_kernels() {
#ifdef SMOACS_X86_KERNELS
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        return site_kernels_avx512<T>();
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return site_kernels_avx2<T>();
    }
#endif
    return site_kernels_baseline<T>();
}

template <typename T>
const SiteKernels<T> kSites = best_site_kernels<T>();

}  // namespace

template <typename T>
std::int64_t masked_softmax(const SoftmaxBatch<T>& batch, bool paper, T* composition, T* weights,
                            T* kept) {
    std::int64_t fault = kSites<T>.weigh(batch, paper, weights);
    if (fault != kNoFault) return fault;
    const int threads = threads_for(batch);
#pragma omp parallel for num_threads(threads) schedule(static) reduction(min : fault)
    for (int t = 0; t < threads; ++t) {
        const std::int64_t first = batch.n_sites * t / threads;
        const std::int64_t last = batch.n_sites * (t + 1) / threads;
        fault = std::min(fault,
                         kSites<T>.forward(batch, paper, first, last, weights, composition, kept));
    }
    return fault;
}

template <typename T>
void masked_softmax_backward(const SoftmaxBatch<T>& batch, bool paper, const T* composition,
                             const T* weights, const T* kept, const T* grad_composition,
                             const T* grad_weights, T* dots, T* grad_element_logits,
                             T* grad_pattern_logits) {
    share(batch.n_sites, threads_for(batch), [&](std::int64_t first, std::int64_t last) {
        kSites<T>.backward(batch, paper, first, last, composition, weights, kept, grad_composition,
                           dots, grad_element_logits);
    });
    share(batch.n_crystals, threads_for(batch), [&](std::int64_t first, std::int64_t last) {
        kSites<T>.pattern_gradients(batch, paper, first, last, weights, dots, grad_weights,
                                    grad_pattern_logits);
    });
}

#define SMOACS_INSTANTIATE(T)                                                               \
    template std::int64_t masked_softmax(const SoftmaxBatch<T>&, bool, T*, T*, T*);         \
    template void masked_softmax_backward(const SoftmaxBatch<T>&, bool, const T*, const T*, \
                                          const T*, const T*, const T*, T*, T*, T*)
SMOACS_INSTANTIATE(float);
SMOACS_INSTANTIATE(double);

}  // namespace smoacs::cpu
