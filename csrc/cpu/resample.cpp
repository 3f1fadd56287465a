#include "cpu/resample.h"

#include "cpu/threads.h"

namespace smoacs::cpu {

namespace {
// Fewer numbers than this per thread are not worth waking it.
constexpr std::int64_t kNumbersPerThread = 1024;
constexpr int kPairs = 16, kFewPairs = 8;  // at a time, in vector code

template <typename Op>
SMOACS_CLONES void run_crystals(const RandomBatch& batch, const Op& op, std::int64_t begin,
                                std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
        const std::int64_t pairs = (batch.count(c) + 1) / 2;
        std::int64_t i = 0;
        for (; pairs - i > kFewPairs; i += kPairs) run_pairs<kPairs>(batch, op, c, i);
        if (i < pairs) run_pairs<kFewPairs>(batch, op, c, i);
    }
}

}  // namespace

template <typename Op>
void for_each_pair(const RandomBatch& batch, const Op& op) {
    share(batch.n_crystals, num_threads(batch.n_rows * batch.width / kNumbersPerThread),
          [&](std::int64_t begin, std::int64_t end) { run_crystals(batch, op, begin, end); });
}

template void for_each_pair(const RandomBatch&, const Fill<float, false>&);
template void for_each_pair(const RandomBatch&, const Fill<float, true>&);
template void for_each_pair(const RandomBatch&, const Fill<double, false>&);
template void for_each_pair(const RandomBatch&, const Fill<double, true>&);
template void for_each_pair(const RandomBatch&, const Resample<float>&);
template void for_each_pair(const RandomBatch&, const Resample<double>&);

}  // namespace smoacs::cpu
