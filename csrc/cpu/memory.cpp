#include "cpu/memory.h"

#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>

#include <climits>
#endif

namespace smoacs::cpu {

void keep_freed_memory([[maybe_unused]] bool keep) {
#ifdef __GLIBC__
    // The largest values that the dynamic adjustment of mallopt(3) reaches.
    constexpr int usual_mmap_threshold = 32 << 20, usual_trim_threshold = 64 << 20;
    mallopt(M_MMAP_THRESHOLD, keep ? INT_MAX : usual_mmap_threshold);
    mallopt(M_TRIM_THRESHOLD, keep ? -1 : usual_trim_threshold);
    if (!keep) malloc_trim(0);
#endif
}

}  // namespace smoacs::cpu
