// What the allocator does with memory that is freed, and the system with memory that is new.
#pragma once

#include <cstddef>

namespace smoacs::cpu {

// With `keep`, freed memory stays with the process for the next allocation; without, blocks go back
// to the system in the way that glibc's own adjustment ends up with. Without effect on systems with
// another C library.
void keep_freed_memory(bool keep);

// Asks for large pages where a large array is about to be written for the first time: the system
// clears them five times as fast as small ones. Small arrays, and other systems, stay as they are.
void use_large_pages(void* begin, std::size_t size);

// Uninitialised memory to std::free, from a cache line on, or on large pages of its own. Throws
// std::bad_alloc.
void* allocate_aligned(std::size_t size);

}  // namespace smoacs::cpu
