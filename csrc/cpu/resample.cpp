#include "cpu/resample.h"

#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {
// Fewer numbers than this per thread are not worth waking it.
constexpr std::int64_t kNumbersPerThread = 1024;
}  // namespace

template <typename Op>
void for_each_pair(const RandomBatch& batch, const Op& op) {
    const int threads = num_threads(batch.n_rows * batch.width / kNumbersPerThread);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t c = 0; c < batch.n_crystals; ++c) {
        const std::int64_t pairs = (batch.count(c) + 1) / 2;
        for (std::int64_t i = 0; i < pairs; ++i) op(batch, c, i);
    }
}

template void for_each_pair(const RandomBatch&, const Fill<float, false>&);
template void for_each_pair(const RandomBatch&, const Fill<float, true>&);
template void for_each_pair(const RandomBatch&, const Fill<double, false>&);
template void for_each_pair(const RandomBatch&, const Fill<double, true>&);
template void for_each_pair(const RandomBatch&, const Resample<float>&);
template void for_each_pair(const RandomBatch&, const Resample<double>&);

}  // namespace smoacs::cpu
