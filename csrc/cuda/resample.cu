#include "core/ragged.h"
#include "cuda/launch.h"
#include "cuda/resample.h"

namespace smoacs::cuda {

namespace {

// One thread per number; the one with the first number of a pair does both.
template <typename Op>
struct Pair {
    Op op;
    __device__ void operator()(const RandomBatch& batch, std::int64_t number) const {
        const std::int64_t c = group_of(batch.ptr, batch.n_crystals, number / batch.width);
        const std::int64_t i = number - batch.begin(c);
        if (i % 2 == 0) run_pairs<1>(batch, op, c, i / 2);
    }
};

}  // namespace

template <typename Op>
void for_each_pair(const RandomBatch& batch, const Op& op, std::uintptr_t stream) {
    launch<1>("random numbers", batch, batch.n_rows * batch.width, Pair<Op>{op}, stream);
}

template void for_each_pair(const RandomBatch&, const Fill<float, false>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Fill<float, true>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Fill<double, false>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Fill<double, true>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Resample<float>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Resample<double>&, std::uintptr_t);

}  // namespace smoacs::cuda
