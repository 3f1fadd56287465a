#include "core/ragged.h"
#include "cuda/check.h"
#include "cuda/resample.h"

namespace smoacs::cuda {

namespace {

constexpr int kThreads = 256;

// One thread per number; the one with the first number of a pair does both.
template <typename Op>
__global__ void pairs(RandomBatch batch, Op op) {
    const std::int64_t number = blockIdx.x * std::int64_t(kThreads) + threadIdx.x;
    if (number >= batch.n_rows * batch.width) return;
    const std::int64_t c = group_of(batch.ptr, batch.n_crystals, number / batch.width);
    const std::int64_t i = number - batch.begin(c);
    if (i % 2 == 0) run_pairs<1>(batch, op, c, i / 2);
}

}  // namespace

template <typename Op>
void for_each_pair(const RandomBatch& batch, const Op& op, std::uintptr_t stream) {
    const std::int64_t numbers = batch.n_rows * batch.width;
    if (numbers == 0) return;
    const auto blocks = static_cast<unsigned>((numbers + kThreads - 1) / kThreads);
    pairs<<<blocks, kThreads, 0, reinterpret_cast<cudaStream_t>(stream)>>>(batch, op);
    check_launch("random numbers");
}

template void for_each_pair(const RandomBatch&, const Fill<float, false>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Fill<float, true>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Fill<double, false>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Fill<double, true>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Resample<float>&, std::uintptr_t);
template void for_each_pair(const RandomBatch&, const Resample<double>&, std::uintptr_t);

}  // namespace smoacs::cuda
