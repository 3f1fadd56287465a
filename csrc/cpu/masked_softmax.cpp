#include "cpu/masked_softmax.h"

#include <algorithm>

#include "core/ragged.h"
#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {

// Fewer sites than this per thread are not worth waking it.
constexpr std::int64_t kSitesPerThread = 128;

template <typename T>
int threads_for(const SoftmaxBatch<T>& batch) {
    return num_threads(batch.n_sites / kSitesPerThread);
}

// Sites that take each step together: with more, the rows of a step come from memory all at once,
// and there is nothing to do until they have come.
constexpr int kTogether = 2;

template <typename T, bool Paper>
struct Sites {
    SoftmaxSite<T, Paper> rows[kTogether];
    int n = 0;

    SoftmaxSite<T, Paper>* begin() { return rows; }
    SoftmaxSite<T, Paper>* end() { return rows + n; }
};

// Each step is a function of its own: one that held all of them would have to keep the constants of
// all, more than there are registers.

// Up to kTogether sites from `first` on; `crystal` is that of the last site before, or an earlier.
template <typename T, bool Paper>
SMOACS_CLONES void begin(Sites<T, Paper>& sites, const SoftmaxBatch<T>& batch, std::int64_t first,
                         std::int64_t last, const T* weights, std::int64_t& crystal) {
    sites.n = static_cast<int>(std::min<std::int64_t>(kTogether, last - first));
    for (auto& row : sites) {
        while (first >= batch.ptr[crystal + 1]) ++crystal;
        row.begin(batch, first++, crystal, weights);
    }
}

template <typename T, bool Paper>
SMOACS_CLONES void exponentiate(Sites<T, Paper>& sites) {
    for (auto& row : sites) row.exponentiate(row.shared);
}

template <typename T, bool Paper>
SMOACS_CLONES void mix(Sites<T, Paper>& sites) {
    for (auto& row : sites) row.mix();
}

template <typename T>
SMOACS_CLONES void exponentiate_mixtures(Sites<T, true>& sites) {
    for (auto& row : sites) row.exponentiate(row.values, row.top);
}

template <typename T, bool Paper>
SMOACS_CLONES std::int64_t finish(Sites<T, Paper>& sites, T* composition) {
    std::int64_t fault = kNoFault;
    for (auto& row : sites) {
        const std::int64_t found = row.fault();
        row.finish(found == kNoFault, composition);
        fault = std::min(fault, found);
    }
    return fault;
}

template <typename T, bool Paper>
SMOACS_CLONES void receive(Sites<T, Paper>& sites, const T* composition,
                           const T* grad_composition) {
    for (auto& row : sites) row.receive(composition, grad_composition);
}

template <typename T, bool Paper>
SMOACS_CLONES void find_gradients(Sites<T, Paper>& sites, T* grad_logits, T* dots) {
    for (auto& row : sites) row.backward(grad_logits, dots);
}

template <typename T, bool Paper>
std::int64_t forward_sites(const SoftmaxBatch<T>& batch, std::int64_t first, std::int64_t last,
                           const T* weights, T* composition) {
    std::int64_t fault = kNoFault;
    std::int64_t crystal = group_of(batch.ptr, batch.n_crystals, first);
    Sites<T, Paper> sites;
    for (; first < last; first += kTogether) {
        begin(sites, batch, first, last, weights, crystal);
        exponentiate(sites);
        mix(sites);
        if constexpr (Paper) exponentiate_mixtures(sites);
        fault = std::min(fault, finish(sites, composition));
    }
    return fault;
}

template <typename T, bool Paper>
void backward_sites(const SoftmaxBatch<T>& batch, std::int64_t first, std::int64_t last,
                    const T* composition, const T* weights, const T* grad_composition, T* dots,
                    T* grad_logits) {
    std::int64_t crystal = group_of(batch.ptr, batch.n_crystals, first);
    Sites<T, Paper> sites;
    for (; first < last; first += kTogether) {
        begin(sites, batch, first, last, weights, crystal);
        exponentiate(sites);
        receive(sites, composition, grad_composition);
        find_gradients(sites, grad_logits, dots);
    }
}

template <typename T, bool Paper>
std::int64_t forward(const SoftmaxBatch<T>& batch, T* composition, T* weights) {
    std::int64_t fault = kNoFault;
    for (std::int64_t c = 0; c < batch.n_crystals; ++c) {
        fault = std::min(fault, pattern_weights<Paper>(batch, c, weights));
    }
    if (fault != kNoFault) return fault;
    const int threads = threads_for(batch);
#pragma omp parallel for num_threads(threads) schedule(static) reduction(min : fault)
    for (int t = 0; t < threads; ++t) {
        const std::int64_t first = batch.n_sites * t / threads;
        const std::int64_t last = batch.n_sites * (t + 1) / threads;
        fault = std::min(fault, forward_sites<T, Paper>(batch, first, last, weights, composition));
    }
    return fault;
}

template <typename T, bool Paper>
void backward(const SoftmaxBatch<T>& batch, const T* composition, const T* weights,
              const T* grad_composition, const T* grad_weights, T* dots, T* grad_element_logits,
              T* grad_pattern_logits) {
    share(batch.n_sites, threads_for(batch), [&](std::int64_t first, std::int64_t last) {
        backward_sites<T, Paper>(batch, first, last, composition, weights, grad_composition, dots,
                                 grad_element_logits);
    });
    share(batch.n_crystals, threads_for(batch), [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t c = first; c < last; ++c) {
            pattern_gradient<Paper>(batch, c, weights, dots, grad_weights, grad_pattern_logits);
        }
    });
}

}  // namespace

template <typename T>
std::int64_t masked_softmax(const SoftmaxBatch<T>& batch, bool paper, T* composition, T* weights) {
    return paper ? forward<T, true>(batch, composition, weights)
                 : forward<T, false>(batch, composition, weights);
}

template <typename T>
void masked_softmax_backward(const SoftmaxBatch<T>& batch, bool paper, const T* composition,
                             const T* weights, const T* grad_composition, const T* grad_weights,
                             T* dots, T* grad_element_logits, T* grad_pattern_logits) {
    const auto run = paper ? backward<T, true> : backward<T, false>;
    run(batch, composition, weights, grad_composition, grad_weights, dots, grad_element_logits,
        grad_pattern_logits);
}

template std::int64_t masked_softmax(const SoftmaxBatch<float>&, bool, float*, float*);
template std::int64_t masked_softmax(const SoftmaxBatch<double>&, bool, double*, double*);
template void masked_softmax_backward(const SoftmaxBatch<float>&, bool, const float*, const float*,
                                      const float*, const float*, float*, float*, float*);
template void masked_softmax_backward(const SoftmaxBatch<double>&, bool, const double*,
                                      const double*, const double*, const double*, double*, double*,
                                      double*);

}  // namespace smoacs::cpu
