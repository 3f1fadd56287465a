#include "cuda/launch.h"
#include "cuda/pair_cosines.h"

namespace smoacs::cuda {

namespace {

struct Directions {
    template <typename T>
    __device__ void operator()(const CosineJob<T>& job, std::int64_t bond) const {
        bond_direction(job, bond);
    }
};

struct Cosines {
    template <typename T>
    __device__ void operator()(const CosineJob<T>& job, std::int64_t pair) const {
        pair_cosine(job, pair);
    }
};

struct Gradients {
    template <typename T>
    __device__ void operator()(const CosineGradientJob<T>& job, std::int64_t bond) const {
        cosine_gradient(job, bond);
    }
};

}  // namespace

template <typename T>
void pair_cosines(const CosineJob<T>& job, std::uintptr_t stream) {
    launch<1>("pair_cosines, directions", job, job.pairs.n_nodes, Directions{}, stream);
    launch<1>("pair_cosines", job, job.pairs.n_edges, Cosines{}, stream);
}

template <typename T>
void pair_cosines_backward(const CosineGradientJob<T>& job, std::uintptr_t stream) {
    launch<1>("pair_cosines_backward", job, job.pairs.n_nodes, Gradients{}, stream);
}

#define SMOACS_INSTANTIATE(T)                                        \
    template void pair_cosines(const CosineJob<T>&, std::uintptr_t); \
    template void pair_cosines_backward(const CosineGradientJob<T>&, std::uintptr_t);
SMOACS_INSTANTIATE(float)
SMOACS_INSTANTIATE(double)
#undef SMOACS_INSTANTIATE

}  // namespace smoacs::cuda
