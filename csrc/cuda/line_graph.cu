#include "cuda/launch.h"
#include "cuda/line_graph.h"

namespace smoacs::cuda {

namespace {

struct FillPairs {
    __device__ void operator()(const PairJob& job, std::int64_t b) const {
        smoacs::fill_pairs<Warp>(job, b);
    }
};

}  // namespace

void fill_pairs(const PairJob& job, std::uintptr_t stream) {
    launch<Warp::size>("line_graph", job, job.n_edges, FillPairs{}, stream);
}

}  // namespace smoacs::cuda
