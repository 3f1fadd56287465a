// Number of OpenMP threads that the CPU kernels use. Like torch's it belongs to the calling thread:
// kernels ask for it there, before their parallel regions, whose threads know nothing of it.
#pragma once

#include <cstdint>

namespace smoacs::cpu {

// Sets the number of threads of later kernel calls from this thread; n < 1 restores OpenMP's own
// default.
void set_num_threads(int n);

// Threads that a kernel with `work` independent pieces should use: at least 1.
int num_threads(long long work);

// Threads that a kernel with plenty of work uses.
int num_threads();

// Calls run(begin, end) in parallel for `threads` equal shares of n pieces.
template <typename Run>
void share(std::int64_t n, int threads, Run&& run) {
    if (threads == 1) return run(std::int64_t{0}, n);  // a team takes as long as a small kernel
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; ++t) run(n * t / threads, n * (t + 1) / threads);
}

}  // namespace smoacs::cpu
