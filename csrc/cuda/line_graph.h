// The last step of core/line_graph_steps.h as a CUDA kernel; all addresses are on the device.
#pragma once

#include "core/line_graph_steps.h"

namespace smoacs::cuda {

void fill_pairs(const PairJob& job, std::uintptr_t stream);

}  // namespace smoacs::cuda
