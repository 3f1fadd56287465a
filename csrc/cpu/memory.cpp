#include "cpu/memory.h"

#include <cstdint>
#include <cstdlib>
#include <new>
#ifdef __GLIBC__
#include <malloc.h>

#include <climits>
#endif
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace smoacs::cpu {

namespace {
constexpr std::size_t kLine = 64, kLargePage = 2 << 20;
}

void keep_freed_memory([[maybe_unused]] bool keep) {
#ifdef __GLIBC__
    // The largest values that the dynamic adjustment of mallopt(3) reaches.
    constexpr int usual_mmap_threshold = 32 << 20, usual_trim_threshold = 64 << 20;
    mallopt(M_MMAP_THRESHOLD, keep ? INT_MAX : usual_mmap_threshold);
    mallopt(M_TRIM_THRESHOLD, keep ? -1 : usual_trim_threshold);
    if (!keep) malloc_trim(0);
#endif
}

void use_large_pages([[maybe_unused]] void* begin, [[maybe_unused]] std::size_t size) {
#ifdef MADV_HUGEPAGE
    if (size < kLargePage) return;
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto address = reinterpret_cast<std::uintptr_t>(begin);
    const std::uintptr_t first = (address + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(first), address + size - first, MADV_HUGEPAGE);
#endif
}

void* allocate_aligned(std::size_t size) {
    const std::size_t unit = size < kLargePage ? kLine : kLargePage;
    size = (size + unit - 1) / unit * unit;
    void* memory = std::aligned_alloc(unit, size);
    if (memory == nullptr) throw std::bad_alloc();
    use_large_pages(memory, size);
    return memory;
}

}  // namespace smoacs::cpu
