#include "cuda/edge_vectors.h"
#include "cuda/launch.h"

namespace smoacs::cuda {

namespace {

template <typename T>
struct Vector {
    T* out;
    __device__ void operator()(const EdgeVectorJob<T>& job, std::int64_t e) const {
        edge_vector(job, e, out);
    }
};

struct SumChunk {
    template <typename T>
    __device__ void operator()(const EdgeGradientJob<T>& job, std::int64_t number) const {
        sum_chunk<Warp>(job, number);
    }
};

struct LatticeGradient {
    template <typename T>
    __device__ void operator()(const EdgeGradientJob<T>& job, std::int64_t c) const {
        lattice_gradient(job, c);
    }
};

struct SiteGradient {
    template <typename T>
    __device__ void operator()(const EdgeGradientJob<T>& job, std::int64_t s) const {
        site_gradient<Warp>(job, s);
    }
};

}  // namespace

template <typename T>
void edge_vectors(const EdgeVectorJob<T>& job, T* out, std::uintptr_t stream) {
    launch<1>("edge_vectors", job, job.n_edges, Vector<T>{out}, stream);
}

template <typename T>
void edge_gradients(const EdgeGradientJob<T>& job, std::uintptr_t stream) {
    launch<Warp::size>("edge_vectors, chunks", job, job.n_chunks, SumChunk{}, stream);
    launch<1>("edge_vectors, lattices", job, job.edges.n_crystals, LatticeGradient{}, stream);
    launch<Warp::size>("edge_vectors, sites", job, job.edges.n_sites, SiteGradient{}, stream);
}

template void edge_vectors(const EdgeVectorJob<float>&, float*, std::uintptr_t);
template void edge_vectors(const EdgeVectorJob<double>&, double*, std::uintptr_t);
template void edge_gradients(const EdgeGradientJob<float>&, std::uintptr_t);
template void edge_gradients(const EdgeGradientJob<double>&, std::uintptr_t);

}  // namespace smoacs::cuda
