// The steps that a GPU runs for neighbour lists, line graphs and edge vectors, one after the other
// on the CPU: for tests where there is no GPU. The CPU's own versions are faster.
#pragma once

#include "core/edge_vector_steps.h"
#include "core/line_graph_steps.h"
#include "core/neighbor_steps.h"

namespace smoacs::cpu {

void prepare(const NeighborJob& job);
void find_reach(const NeighborJob& job);
void count(const NeighborJob& job);
template <typename T>
void fill(const NeighborJob& job, const NeighborOutput<T>& out);

void fill_pairs(const PairJob& job);

template <typename T>
void edge_vectors_in_steps(const EdgeVectorJob<T>& job, T* out);
template <typename T>
void edge_gradients_in_steps(const EdgeGradientJob<T>& job);

}  // namespace smoacs::cpu
