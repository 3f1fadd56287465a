#include "cpu/threads.h"

#include <algorithm>
#include <atomic>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace smoacs::cpu {

namespace {
std::atomic<int> requested{0};
}

void set_num_threads(int n) {
    requested = std::max(n, 0);
}

int num_threads() {
#ifdef _OPENMP
    const int n = requested;
    return n > 0 ? n : omp_get_max_threads();
#else
    return 1;
#endif
}

int num_threads(long long work) {
    return static_cast<int>(std::clamp<long long>(work, 1, num_threads()));
}

}  // namespace smoacs::cpu
