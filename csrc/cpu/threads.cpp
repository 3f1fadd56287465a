#include "cpu/threads.h"

#include <algorithm>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace smoacs::cpu {

namespace {
thread_local int requested = 0;
}

void set_num_threads(int n) {
    requested = std::max(n, 0);
}

int num_threads() {
#ifdef _OPENMP
    return requested > 0 ? requested : omp_get_max_threads();
#else
    return 1;
#endif
}

int num_threads(long long work) {
    return static_cast<int>(std::clamp<long long>(work, 1, num_threads()));
}

}  // namespace smoacs::cpu
