#include "cpu/softmax_sites.h"

#include <algorithm>

#include "core/ragged.h"

namespace smoacs::cpu {

namespace {

// Sites that take each step together. With more of them on the way back, the rows of a step come
// from memory all at once, and there is nothing to do until they have come.
constexpr int kForward = 4;
template <bool Paper>
constexpr int kBackward = Paper ? 2 : 3;

// The backward pass takes blocks of sites from the last to the first: what the forward pass used
// last is still in the cache. Each block costs the hardware a new start at fetching ahead.
constexpr std::int64_t kBlock = 4096;

template <typename T, bool Paper, int Size, int Most>
struct Sites {
    SoftmaxSite<T, Paper, Size> rows[Most];
    int n = 0;

    SoftmaxSite<T, Paper, Size>* begin() { return rows; }
    SoftmaxSite<T, Paper, Size>* end() { return rows + n; }
};

// Each step is a function of its own: one that held all of them would have to keep the constants of
// all, more than there are registers.
#define SMOACS_STEP __attribute__((noinline))

// Up to Most sites from `first` on; `crystal` is that of the last site before, or an earlier.
template <typename T, bool Paper, int Size, int Most>
SMOACS_LANES void begin(Sites<T, Paper, Size, Most>& sites, const SoftmaxBatch<T>& batch,
                        std::int64_t first, std::int64_t last, const T* weights,
                        std::int64_t& crystal) {
    sites.n = static_cast<int>(std::min<std::int64_t>(last - first, Most));
    for (auto& row : sites) {
        while (first >= batch.ptr[crystal + 1]) ++crystal;
        row.begin(batch, first++, crystal, weights);
    }
}

template <typename T, bool Paper, int Size, int Most>
SMOACS_STEP void find_tops(Sites<T, Paper, Size, Most>& sites, const SoftmaxBatch<T>& batch,
                           std::int64_t first, std::int64_t last, const T* weights,
                           std::int64_t& crystal) {
    begin(sites, batch, first, last, weights, crystal);
    for (auto& row : sites) row.find_top();
}

// Asks for the rows that these sites will write, which takes as long as several steps.
template <typename T, bool Paper, int Size, int Most>
SMOACS_LANES void ask_for(const Sites<T, Paper, Size, Most>& sites, const SoftmaxBatch<T>& batch,
                          T* composition) {
    const std::int64_t n = batch.n_elements, first = sites.rows[0].site;
    const auto* byte = reinterpret_cast<const char*>(composition + first * n);
    const auto* end = reinterpret_cast<const char*>(composition + (first + sites.n) * n);
    for (; byte < end; byte += 64) __builtin_prefetch(byte, 1);
}

template <typename T, bool Paper, int Size, int Most>
SMOACS_STEP void exponentiate(Sites<T, Paper, Size, Most>& sites) {
    for (auto& row : sites) row.exponentiate();
}

template <typename T, bool Paper, int Size, int Most>
SMOACS_STEP void mix(Sites<T, Paper, Size, Most>& sites, const SoftmaxBatch<T>& batch, T* kept,
                     T* composition) {
    for (int first = 0; first < batch.n_patterns; first += kBundle) {
        for (auto& row : sites) row.add_up(first, kept);
        for (auto& row : sites) row.mix(first, composition);
    }
}

template <typename T, int Size, int Most>
SMOACS_STEP void sharpen(Sites<T, true, Size, Most>& sites) {
    for (auto& row : sites) row.find_most();
    for (auto& row : sites) row.sharpen();
}

template <typename T, int Size, int Most>
SMOACS_STEP void finish(Sites<T, true, Size, Most>& sites, T* composition) {
    for (auto& row : sites) row.add_up_sharpened();
    for (auto& row : sites) row.finish(composition);
}

template <typename T, bool Paper, int Size, int Most>
SMOACS_STEP void recall(Sites<T, Paper, Size, Most>& sites, const SoftmaxBatch<T>& batch,
                        std::int64_t first, std::int64_t last, const T* weights,
                        std::int64_t& crystal, const T* kept) {
    begin(sites, batch, first, last, weights, crystal);
    for (auto& row : sites) row.recall(kept);
}

template <typename T, bool Paper, int Size, int Most>
SMOACS_STEP void receive(Sites<T, Paper, Size, Most>& sites, const T* composition,
                         const T* grad_composition) {
    for (auto& row : sites) row.receive(composition, grad_composition);
}

template <typename T, bool Paper, int Size, int Most>
SMOACS_STEP void find_gradients(Sites<T, Paper, Size, Most>& sites, const SoftmaxBatch<T>& batch,
                                const T* kept, const T* grad_composition, T* grad_logits, T* dots) {
    for (int first = 0; first < batch.n_patterns; first += kBundle) {
        for (auto& row : sites) row.weigh(first, kept, grad_composition, dots);
        for (auto& row : sites) row.backward(first, grad_composition, grad_logits, dots);
    }
}

// The smallest fault of the sites that have gone through all steps.
template <typename T, bool Paper, int Size, int Most>
SMOACS_STEP std::int64_t find_fault(Sites<T, Paper, Size, Most>& sites,
                                    const SoftmaxBatch<T>& batch, std::int64_t first,
                                    std::int64_t last, const T* weights, std::int64_t crystal,
                                    T* composition) {
    bool suspect = false;
    for (auto& row : sites.rows) suspect |= row.is_suspect();
    std::int64_t fault = kNoFault;
    for (; suspect && first < last; first += Most) {
        begin(sites, batch, first, last, weights, crystal);
        for (auto& row : sites) {
            const std::int64_t found = row.check(true, composition);
            fault = std::min(fault, found);
        }
    }
    return fault;
}

template <typename T, bool Paper, int Size>
std::int64_t forward_sites(const SoftmaxBatch<T>& batch, std::int64_t begin, std::int64_t last,
                           const T* weights, T* composition, T* kept) {
    const std::int64_t first_crystal = group_of(batch.ptr, batch.n_crystals, begin);
    std::int64_t crystal = first_crystal;
    Sites<T, Paper, Size, kForward> sites;
    for (std::int64_t first = begin; first < last; first += kForward) {
        find_tops(sites, batch, first, last, weights, crystal);
        if (Paper) ask_for(sites, batch, composition);
        exponentiate(sites);
        mix(sites, batch, kept, composition);
        if constexpr (Paper) {
            sharpen(sites);
            finish(sites, composition);
        }
    }
    return find_fault(sites, batch, begin, last, weights, first_crystal, composition);
}

template <typename T, bool Paper, int Size>
void backward_sites(const SoftmaxBatch<T>& batch, std::int64_t first, std::int64_t last,
                    const T* composition, const T* weights, const T* kept,
                    const T* grad_composition, T* dots, T* grad_logits) {
    Sites<T, Paper, Size, kBackward<Paper>> sites;
    for (std::int64_t end = last; end > first; end -= kBlock) {
        std::int64_t begin = std::max(first, end - kBlock);
        std::int64_t crystal = group_of(batch.ptr, batch.n_crystals, begin);
        for (; begin < end; begin += kBackward<Paper>) {
            recall(sites, batch, begin, end, weights, crystal, kept);
            if constexpr (Paper) receive(sites, composition, grad_composition);
            find_gradients(sites, batch, kept, grad_composition, grad_logits, dots);
        }
    }
}

template <typename T>
std::int64_t weigh(const SoftmaxBatch<T>& batch, bool paper, T* weights) {
    std::int64_t fault = kNoFault;
    for (std::int64_t c = 0; c < batch.n_crystals; ++c) {
        const std::int64_t found = paper ? pattern_weights<true>(batch, c, weights)
                                         : pattern_weights<false>(batch, c, weights);
        fault = std::min(fault, found);
    }
    return fault;
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

template <typename T>
void pattern_gradients(const SoftmaxBatch<T>& batch, bool paper, std::int64_t first,
                       std::int64_t last, const T* weights, const T* dots, const T* grad_weights,
                       T* grad_logits) {
    for (std::int64_t c = first; c < last; ++c) {
        if (paper) {
            pattern_gradient<true>(batch, c, weights, dots, grad_weights, grad_logits);
        } else {
            pattern_gradient<false>(batch, c, weights, dots, grad_weights, grad_logits);
        }
    }
}

}  // namespace

template <typename T>
SiteKernels<T> SMOACS_SITE_KERNELS() {
    return {weigh<T>, forward<T>, backward<T>, pattern_gradients<T>};
}

template SiteKernels<float> SMOACS_SITE_KERNELS();
template SiteKernels<double> SMOACS_SITE_KERNELS();

}  // namespace smoacs::cpu
