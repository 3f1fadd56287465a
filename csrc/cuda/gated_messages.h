// CUDA kernels of the gated message sums, one thread per node and feature; core/gated_messages.h
// has the formulas. All addresses are on the device.
#pragma once

#include "core/gated_messages.h"

namespace smoacs::cuda {

template <typename T>
void gated_messages(const MessageJob<T>& job, std::uintptr_t stream);

template <typename T>
void gated_messages_backward(const MessageGradientJob<T>& job, std::uintptr_t stream);

}  // namespace smoacs::cuda
