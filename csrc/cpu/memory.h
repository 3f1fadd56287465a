// What the allocator does with memory that is freed.
#pragma once

namespace smoacs::cpu {

// With `keep`, freed memory stays with the process for the next allocation; without, blocks go back
// to the system in the way that glibc's own adjustment ends up with. Without effect on systems with
// another C library.
void keep_freed_memory(bool keep);

}  // namespace smoacs::cpu
