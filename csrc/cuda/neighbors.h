// The steps of core/neighbor_steps.h as CUDA kernels, one warp per site; all addresses are on the
// device.
#pragma once

#include "core/neighbor_steps.h"

namespace smoacs::cuda {

void prepare(const NeighborJob& job, std::uintptr_t stream);
void find_reach(const NeighborJob& job, std::uintptr_t stream);
void count(const NeighborJob& job, std::uintptr_t stream);
template <typename T>
void fill(const NeighborJob& job, const NeighborOutput<T>& out, std::uintptr_t stream);

}  // namespace smoacs::cuda
