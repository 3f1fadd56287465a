#include "core/ragged.h"
#include "cuda/check.h"
#include "cuda/masked_softmax.h"

namespace smoacs::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kSitesPerBlock = kThreads / kLanes;

unsigned blocks_for(std::int64_t work, std::int64_t per_block) {
    return static_cast<unsigned>((work + per_block - 1) / per_block);
}

// One thread per crystal.
template <typename T, bool Paper>
__global__ void crystals_forward(SoftmaxBatch<T> batch, T* weights) {
    const std::int64_t c = blockIdx.x * std::int64_t(kThreads) + threadIdx.x;
    if (c < batch.n_crystals) pattern_weights<Paper>(batch, c, weights);
}

// One warp per site.
template <typename T, bool Paper, int Size>
__global__ void sites_forward(SoftmaxBatch<T> batch, const T* weights, T* composition, T* kept) {
    const std::int64_t s = blockIdx.x * std::int64_t(kSitesPerBlock) + threadIdx.x / kLanes;
    if (s >= batch.n_sites) return;
    const std::int64_t c = group_of(batch.ptr, batch.n_crystals, s);
    SoftmaxSite<T, Paper, Size> site;
    site.begin(batch, s, c, weights);
    site.find_top();
    site.exponentiate();
    site.mix(kept, composition);
    if (Paper) {
        site.sharpen();
        site.finish(composition);
    }
    // The weights of a crystal with a fault are NaN.
    site.check(is_finite(site.weights[0]), composition);
}

template <typename T, bool Paper, int Size>
__global__ void sites_backward(SoftmaxBatch<T> batch, const T* composition, const T* weights,
                               const T* kept, const T* grad_composition, T* dots, T* grad_logits) {
    const std::int64_t s = blockIdx.x * std::int64_t(kSitesPerBlock) + threadIdx.x / kLanes;
    if (s >= batch.n_sites) return;
    const std::int64_t c = group_of(batch.ptr, batch.n_crystals, s);
    SoftmaxSite<T, Paper, Size> site;
    site.begin(batch, s, c, weights);
    site.recall(kept);
    if (Paper) site.receive(composition, grad_composition);
    site.backward(kept, grad_composition, grad_logits, dots);
}

template <typename T, bool Paper>
__global__ void crystals_backward(SoftmaxBatch<T> batch, const T* weights, const T* dots,
                                  const T* grad_weights, T* grad_logits) {
    const std::int64_t c = blockIdx.x * std::int64_t(kThreads) + threadIdx.x;
    if (c >= batch.n_crystals) return;
    pattern_gradient<Paper>(batch, c, weights, dots, grad_weights, grad_logits);
}

template <typename T, bool Paper>
void forward(const SoftmaxBatch<T>& batch, T* composition, T* weights, T* kept,
             cudaStream_t stream) {
    if (batch.n_crystals == 0) return;
    crystals_forward<T, Paper>
        <<<blocks_for(batch.n_crystals, kThreads), kThreads, 0, stream>>>(batch, weights);
    check_launch("masked_softmax, crystals");
    if (batch.n_sites == 0) return;
    with_row_size(batch.n_elements, [&](auto size) {
        sites_forward<T, Paper, decltype(size)::value>
            <<<blocks_for(batch.n_sites, kSitesPerBlock), kThreads, 0, stream>>>(batch, weights,
                                                                                 composition, kept);
    });
    check_launch("masked_softmax, sites");
}

template <typename T, bool Paper>
void backward(const SoftmaxBatch<T>& batch, const T* composition, const T* weights, const T* kept,
              const T* grad_composition, const T* grad_weights, T* dots, T* grad_element_logits,
              T* grad_pattern_logits, cudaStream_t stream) {
    if (batch.n_crystals == 0) return;
    if (batch.n_sites > 0) {
        with_row_size(batch.n_elements, [&](auto size) {
            sites_backward<T, Paper, decltype(size)::value>
                <<<blocks_for(batch.n_sites, kSitesPerBlock), kThreads, 0, stream>>>(
                    batch, composition, weights, kept, grad_composition, dots, grad_element_logits);
        });
        check_launch("masked_softmax_backward, sites");
    }
    crystals_backward<T, Paper><<<blocks_for(batch.n_crystals, kThreads), kThreads, 0, stream>>>(
        batch, weights, dots, grad_weights, grad_pattern_logits);
    check_launch("masked_softmax_backward, crystals");
}

}  // namespace

template <typename T>
void masked_softmax(const SoftmaxBatch<T>& batch, bool paper, T* composition, T* weights, T* kept,
                    std::uintptr_t stream) {
    const auto run = paper ? forward<T, true> : forward<T, false>;
    run(batch, composition, weights, kept, reinterpret_cast<cudaStream_t>(stream));
}

template <typename T>
void masked_softmax_backward(const SoftmaxBatch<T>& batch, bool paper, const T* composition,
                             const T* weights, const T* kept, const T* grad_composition,
                             const T* grad_weights, T* dots, T* grad_element_logits,
                             T* grad_pattern_logits, std::uintptr_t stream) {
    const auto run = paper ? backward<T, true> : backward<T, false>;
    run(batch, composition, weights, kept, grad_composition, grad_weights, dots,
        grad_element_logits, grad_pattern_logits, reinterpret_cast<cudaStream_t>(stream));
}

#define SMOACS_INSTANTIATE(T)                                                               \
    template void masked_softmax(const SoftmaxBatch<T>&, bool, T*, T*, T*, std::uintptr_t); \
    template void masked_softmax_backward(const SoftmaxBatch<T>&, bool, const T*, const T*, \
                                          const T*, const T*, const T*, T*, T*, T*,         \
                                          std::uintptr_t)
SMOACS_INSTANTIATE(float);
SMOACS_INSTANTIATE(double);

}  // namespace smoacs::cuda
