#include "cpu/softmax_sites.h"

#include "core/ragged.h"

namespace smoacs::cpu {

namespace {

// Sites that take each step together: with more, the rows of a step come from memory all at once,
// and there is nothing to do until they have come.
constexpr int kTogether = 2;

template <typename T, bool Paper, int Size>
struct Sites {
    SoftmaxSite<T, Paper, Size> rows[kTogether];
    int n = 0;

    SoftmaxSite<T, Paper, Size>* begin() { return rows; }
    SoftmaxSite<T, Paper, Size>* end() { return rows + n; }
};

// Each step is a function of its own: one that held all of them would have to keep the constants of
// all, more than there are registers.
#define SMOACS_STEP __attribute__((noinline))

// Up to kTogether sites from `first` on; `crystal` is that of the last site before, or an earlier.
template <typename T, bool Paper, int Size>
SMOACS_LANES void begin(Sites<T, Paper, Size>& sites, const SoftmaxBatch<T>& batch,
                        std::int64_t first, std::int64_t last, const T* weights,
                        std::int64_t& crystal) {
    sites.n = static_cast<int>(last - first < kTogether ? last - first : kTogether);
    for (auto& row : sites) {
        while (first >= batch.ptr[crystal + 1]) ++crystal;
        row.begin(batch, first++, crystal, weights);
    }
}

template <typename T, bool Paper, int Size>
SMOACS_STEP void find_tops(Sites<T, Paper, Size>& sites, const SoftmaxBatch<T>& batch,
                           std::int64_t first, std::int64_t last, const T* weights,
                           std::int64_t& crystal) {
    begin(sites, batch, first, last, weights, crystal);
    for (auto& row : sites) row.find_top();
}

template <typename T, bool Paper, int Size>
SMOACS_STEP void exponentiate(Sites<T, Paper, Size>& sites) {
    for (auto& row : sites) row.exponentiate();
}

template <typename T, bool Paper, int Size>
SMOACS_STEP void mix(Sites<T, Paper, Size>& sites, T* kept, T* composition) {
    for (auto& row : sites) row.mix(kept, composition);
}

template <typename T, int Size>
SMOACS_STEP void sharpen(Sites<T, true, Size>& sites) {
    for (auto& row : sites) row.sharpen();
}

template <typename T, int Size>
SMOACS_STEP void finish(Sites<T, true, Size>& sites, T* composition) {
    for (auto& row : sites) row.finish(composition);
}

template <typename T, bool Paper, int Size>
std::int64_t check(Sites<T, Paper, Size>& sites, T* composition) {
    std::int64_t fault = kNoFault;
    for (auto& row : sites) {
        const std::int64_t found = row.check(true, composition);
        fault = found < fault ? found : fault;
    }
    return fault;
}

template <typename T, bool Paper, int Size>
SMOACS_STEP void recall(Sites<T, Paper, Size>& sites, const SoftmaxBatch<T>& batch,
                        std::int64_t first, std::int64_t last, const T* weights,
                        std::int64_t& crystal, const T* kept) {
    begin(sites, batch, first, last, weights, crystal);
    for (auto& row : sites) row.recall(kept);
}

template <typename T, bool Paper, int Size>
SMOACS_STEP void receive(Sites<T, Paper, Size>& sites, const T* composition,
                         const T* grad_composition) {
    for (auto& row : sites) row.receive(composition, grad_composition);
}

template <typename T, bool Paper, int Size>
SMOACS_STEP void find_gradients(Sites<T, Paper, Size>& sites, const T* kept,
                                const T* grad_composition, T* grad_logits, T* dots) {
    for (auto& row : sites) row.backward(kept, grad_composition, grad_logits, dots);
}

template <typename T, bool Paper, int Size>
std::int64_t forward_sites(const SoftmaxBatch<T>& batch, std::int64_t first, std::int64_t last,
                           const T* weights, T* composition, T* kept) {
    std::int64_t fault = kNoFault;
    std::int64_t crystal = group_of(batch.ptr, batch.n_crystals, first);
    Sites<T, Paper, Size> sites;
    for (; first < last; first += kTogether) {
        find_tops(sites, batch, first, last, weights, crystal);
        exponentiate(sites);
        mix(sites, kept, composition);
        if constexpr (Paper) {
            sharpen(sites);
            finish(sites, composition);
        }
        const std::int64_t found = check(sites, composition);
        fault = found < fault ? found : fault;
    }
    return fault;
}

template <typename T, bool Paper, int Size>
void backward_sites(const SoftmaxBatch<T>& batch, std::int64_t first, std::int64_t last,
                    const T* composition, const T* weights, const T* kept,
                    const T* grad_composition, T* dots, T* grad_logits) {
    std::int64_t crystal = group_of(batch.ptr, batch.n_crystals, first);
    Sites<T, Paper, Size> sites;
    for (; first < last; first += kTogether) {
        recall(sites, batch, first, last, weights, crystal, kept);
        if constexpr (Paper) receive(sites, composition, grad_composition);
        find_gradients(sites, kept, grad_composition, grad_logits, dots);
    }
}

template <typename T>
std::int64_t forward(const SoftmaxBatch<T>& batch, bool paper, std::int64_t first,
                     std::int64_t last, const T* weights, T* composition, T* kept) {
    return with_row_size(batch.n_elements, [&](auto size) {
        const auto run = paper ? forward_sites<T, true, size()> : forward_sites<T, false, size()>;
        return run(batch, first, last, weights, composition, kept);
    });
}

template <typename T>
void backward(const SoftmaxBatch<T>& batch, bool paper, std::int64_t first, std::int64_t last,
              const T* composition, const T* weights, const T* kept, const T* grad_composition,
              T* dots, T* grad_logits) {
    with_row_size(batch.n_elements, [&](auto size) {
        const auto run = paper ? backward_sites<T, true, size()> : backward_sites<T, false, size()>;
        run(batch, first, last, composition, weights, kept, grad_composition, dots, grad_logits);
    });
}

}  // namespace

template <typename T>
SiteKernels<T> SMOACS_SITE_KERNELS() {
    return {forward<T>, backward<T>};
}

template SiteKernels<float> SMOACS_SITE_KERNELS();
template SiteKernels<double> SMOACS_SITE_KERNELS();

}  // namespace smoacs::cpu
