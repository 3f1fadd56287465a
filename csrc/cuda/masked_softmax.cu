#include <algorithm>

#include "cuda/launch.h"
#include "cuda/masked_softmax.h"

namespace smoacs::cuda {

namespace {

constexpr int kMostThreads = 16 * kLanes;

// One block per crystal, whose warps take turns at its sites.
template <typename T, bool Paper, int Size>
__global__ void __launch_bounds__(kMostThreads)
    forward(SoftmaxBatch<T> batch, T* composition, T* weights, T* kept) {
    const std::int64_t c = blockIdx.x;
    if (threadIdx.x == 0) pattern_weights<Paper>(batch, c, weights);
    __syncthreads();
    const auto sites = sites_of(batch, c);
    for (std::int64_t s = sites.first + threadIdx.x / kLanes; s < sites.last;
         s += blockDim.x / kLanes) {
        SoftmaxSite<T, Paper, Size> site;
        site.begin(batch, s, c, weights);
        site.find_top();
        site.exponentiate();
        for (int first = 0; first < batch.n_patterns; first += kBundle) {
            site.add_up(first, kept);
            site.mix(first, composition);
        }
        if (Paper) {
            site.find_most();
            site.sharpen();
            site.add_up_sharpened();
            site.finish(composition);
        }
        // The weights of a crystal with a fault are NaN.
        const bool good = is_finite(site.weights[0]);
        if (!good || site.is_suspect()) site.check(good, composition);
    }
}

template <typename T, bool Paper, int Size>
__global__ void __launch_bounds__(kMostThreads)
    backward(SoftmaxBatch<T> batch, const T* composition, const T* weights, const T* kept,
             const T* grad_composition, const T* grad_weights, T* dots, T* grad_element_logits,
             T* grad_pattern_logits) {
    const std::int64_t c = blockIdx.x;
    const auto sites = sites_of(batch, c);
    for (std::int64_t s = sites.first + threadIdx.x / kLanes; s < sites.last;
         s += blockDim.x / kLanes) {
        SoftmaxSite<T, Paper, Size> site;
        site.begin(batch, s, c, weights);
        site.recall(kept);
        if (Paper) site.receive(composition, grad_composition);
        for (int first = 0; first < batch.n_patterns; first += kBundle) {
            site.weigh(first, kept, grad_composition, dots);
            site.backward(first, grad_composition, grad_element_logits, dots);
        }
    }
    __syncthreads();
    if (threadIdx.x < kLanes) {
        pattern_gradient<Paper>(batch, c, weights, dots, grad_weights, grad_pattern_logits);
    }
}

// As many warps as the mean crystal has sites.
template <typename T>
int threads_for(const SoftmaxBatch<T>& batch) {
    const std::int64_t threads = batch.n_sites / batch.n_crystals * kLanes;
    return static_cast<int>(std::clamp<std::int64_t>(threads, kLanes, kMostThreads));
}

// Calls f with the form and the size of rows as constants.
template <typename T, typename F>
void with_form(const SoftmaxBatch<T>& batch, bool paper, F&& f) {
    if (batch.n_crystals == 0) return;
    with_row_size(batch.n_elements, [&](auto size) {
        paper ? f(std::true_type(), size) : f(std::false_type(), size);
    });
}

}  // namespace

template <typename T>
void masked_softmax(const SoftmaxBatch<T>& batch, bool paper, T* composition, T* weights, T* kept,
                    std::uintptr_t stream) {
    with_form(batch, paper, [&](auto form, auto size) {
        launch_blocks("masked_softmax", forward<T, form(), size()>, batch.n_crystals,
                      threads_for(batch), stream, batch, composition, weights, kept);
    });
}

template <typename T>
void masked_softmax_backward(const SoftmaxBatch<T>& batch, bool paper, const T* composition,
                             const T* weights, const T* kept, const T* grad_composition,
                             const T* grad_weights, T* dots, T* grad_element_logits,
                             T* grad_pattern_logits, std::uintptr_t stream) {
    with_form(batch, paper, [&](auto form, auto size) {
        launch_blocks("masked_softmax_backward", backward<T, form(), size()>, batch.n_crystals,
                      threads_for(batch), stream, batch, composition, weights, kept,
                      grad_composition, grad_weights, dots, grad_element_logits,
                      grad_pattern_logits);
    });
}

#define SMOACS_INSTANTIATE(T)                                                               \
    template void masked_softmax(const SoftmaxBatch<T>&, bool, T*, T*, T*, std::uintptr_t); \
    template void masked_softmax_backward(const SoftmaxBatch<T>&, bool, const T*, const T*, \
                                          const T*, const T*, const T*, T*, T*, T*,         \
                                          std::uintptr_t)
SMOACS_INSTANTIATE(float);
SMOACS_INSTANTIATE(double);

}  // namespace smoacs::cuda
