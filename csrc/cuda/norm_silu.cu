#include "cuda/launch.h"
#include "cuda/norm_silu.h"

namespace smoacs::cuda {

namespace {

struct Forward {
    template <typename T>
    __device__ void operator()(const NormJob<T>& job, std::int64_t row) const {
        smoacs::norm_silu<1>(job, row, 1);
    }
};

struct Gradient {
    template <typename T>
    __device__ void operator()(const NormGradientJob<T>& job, std::int64_t row) const {
        norm_silu_gradient<1>(job, row, 1, static_cast<T*>(nullptr));
    }
};

// Sums over rows in a fixed order: a warp takes a whole chunk.
struct GradientsAndSums {
    template <typename T>
    __device__ void operator()(const NormGradientJob<T>& job, std::int64_t chunk) const {
        norm_silu_gradients<1>(job, chunk);
    }
};

}  // namespace

template <typename T>
void norm_silu(const NormJob<T>& job, std::uintptr_t stream) {
    launch<kLanes>("norm_silu", job, job.n_rows, Forward{}, stream);
}

template <typename T>
void norm_silu_backward(const NormGradientJob<T>& job, std::uintptr_t stream) {
    if (job.chunk_sums == nullptr) {
        launch<kLanes>("norm_silu_backward", job, job.n_rows, Gradient{}, stream);
    } else {
        launch<kLanes>("norm_silu_backward, chunks", job, n_chunks(job), GradientsAndSums{},
                       stream);
    }
}

#define SMOACS_INSTANTIATE(T)                                   \
    template void norm_silu(const NormJob<T>&, std::uintptr_t); \
    template void norm_silu_backward(const NormGradientJob<T>&, std::uintptr_t);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cuda
