"""Graphs of many fixed crystals in flat arrays, from which mini-batches are cut quickly."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from smoacs.crystals import ragged_rows
from smoacs.ops import edge_vectors
from smoacs.predictors.base import Graph, GraphSpec
from smoacs.training.data import LabelledCrystals


@dataclass(frozen=True)
class GraphBatch:
    """Mini-batch of C crystals: S sites, E bonds, T bond pairs (0 for models without).

    Attributes
    ----------
    atomic_numbers : Tensor (S,), int64
    site_ptr : Tensor (C + 1,), int64
    vectors : Tensor (E, 3), float32
        From source to destination, Å.
    src, dst : Tensor (E,), int64
    line_src, line_dst : Tensor (T,), int64
    targets : Tensor (C, P), float32
        NaN where missing.
    """

    atomic_numbers: Tensor
    site_ptr: Tensor
    vectors: Tensor
    src: Tensor
    dst: Tensor
    line_src: Tensor
    line_dst: Tensor
    targets: Tensor


@dataclass(frozen=True)
class PackedGraphs:
    """Graphs of C crystals; indices inside a crystal count from its own first site or bond.

    Attributes
    ----------
    atomic_numbers : Tensor (S,), int64
    vectors : Tensor (E, 3), float32
        From source to destination, Å.
    ends : Tensor (2, E), int32
        Sources and destinations of the bonds.
    line_ends : Tensor (2, T), int32
        Bonds of each pair.
    site_ptr, edge_ptr, line_ptr : Tensor (C + 1,), int64
    targets : Tensor (C, P), float32
        NaN where missing.
    """

    atomic_numbers: Tensor
    vectors: Tensor
    ends: Tensor
    line_ends: Tensor
    site_ptr: Tensor
    edge_ptr: Tensor
    line_ptr: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.site_ptr) - 1

    @classmethod
    def build(cls, crystals: LabelledCrystals, spec: GraphSpec) -> PackedGraphs:
        """Build the graphs once; their geometry does not change in training."""
        parts = [_build_part(part, spec) for part in crystals.parts()]
        vectors, ends, edge_counts, line_ends, line_counts = zip(*parts, strict=True)
        return cls(
            atomic_numbers=torch.from_numpy(crystals.atomic_numbers),
            vectors=torch.cat(vectors),
            ends=torch.cat(ends, dim=1),
            line_ends=torch.cat(line_ends, dim=1),
            site_ptr=torch.from_numpy(crystals.ptr),
            edge_ptr=_offsets(torch.cat(edge_counts)),
            line_ptr=_offsets(torch.cat(line_counts)),
            targets=torch.from_numpy(crystals.targets).to(torch.float32),
        )

    def to(self, device: torch.device) -> PackedGraphs:
        """The same graphs on a device, where batches are cut without a copy from the host."""
        return PackedGraphs(*(getattr(self, field.name).to(device) for field in fields(self)))

    def batch(self, indices: Tensor) -> GraphBatch:
        """The crystals at ``indices`` (n,), int64 on the same device, as one disjoint graph."""
        offsets = (self.site_ptr, self.edge_ptr, self.line_ptr)
        # All sizes at once: a GPU is waited for only here.
        totals = torch.stack([(ptr[indices + 1] - ptr[indices]).sum() for ptr in offsets]).tolist()
        (sites, site_ptr), (edges, edge_ptr), (lines, line_ptr) = (
            ragged_rows(ptr, indices, total) for ptr, total in zip(offsets, totals, strict=True)
        )
        src, dst = self.ends[:, edges] + _spread(site_ptr[:-1], edge_ptr, len(edges))
        line_src, line_dst = self.line_ends[:, lines] + _spread(edge_ptr[:-1], line_ptr, len(lines))
        return GraphBatch(
            atomic_numbers=self.atomic_numbers[sites],
            site_ptr=site_ptr,
            vectors=self.vectors[edges],
            src=src,
            dst=dst,
            line_src=line_src,
            line_dst=line_dst,
            targets=self.targets[indices],
        )


def _build_part(crystals: LabelledCrystals, spec: GraphSpec) -> tuple[Tensor, ...]:
    """Vectors, local ends and counts of bonds, local ends and counts of bond pairs."""
    batch = crystals.batch()
    graph = Graph.build(batch, spec)
    neighbors = graph.neighbors
    vectors = edge_vectors(batch.frac_coords, batch.lattice, neighbors)
    edge_ptr = neighbors.edge_ptr
    ends = torch.stack([neighbors.src, neighbors.dst])
    ends = ends - _spread(batch.ptr[:-1], edge_ptr, ends.shape[1])
    pairs = (
        edge_ptr.new_zeros(2, 0)
        if graph.line is None
        else torch.stack([graph.line.src, graph.line.dst])
    )
    # Pairs are ordered by their second bond, so those of one crystal are contiguous.
    line_ptr = torch.searchsorted(pairs[1], edge_ptr)
    line_ends = pairs - _spread(edge_ptr[:-1], line_ptr, pairs.shape[1])
    return (
        vectors.to(torch.float32),
        ends.to(torch.int32),
        edge_ptr.diff(),
        line_ends.to(torch.int32),
        line_ptr.diff(),
    )


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _spread(values: Tensor, ptr: Tensor, n_rows: int) -> Tensor:
    """The value (C,) of each row's group, for groups that begin at ``ptr`` (C + 1,)."""
    return torch.repeat_interleave(values, ptr.diff(), output_size=n_rows)
