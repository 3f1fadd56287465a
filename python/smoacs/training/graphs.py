"""Graphs of many fixed crystals in flat arrays, from which mini-batches are cut quickly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoacs.ops import edge_vectors
from smoacs.predictors.base import Graph, GraphSpec
from smoacs.training.data import LabelledCrystals

CRYSTALS_PER_BUILD = 512


@dataclass(frozen=True)
class GraphBatch:
    """Mini-batch of C crystals: S sites, E bonds, T bond pairs.

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
    """Graphs of C crystals; indices inside a crystal count from its own first site or bond."""

    atomic_numbers: NDArray[np.int64]
    vectors: NDArray[np.float32]
    ends: NDArray[np.int32]
    line_ends: NDArray[np.int32]
    site_ptr: NDArray[np.int64]
    edge_ptr: NDArray[np.int64]
    line_ptr: NDArray[np.int64]
    targets: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.site_ptr) - 1

    @classmethod
    def build(cls, crystals: LabelledCrystals, spec: GraphSpec) -> PackedGraphs:
        """Build the graphs once; their geometry does not change in training."""
        parts = [
            _build_part(crystals.select(indices), spec)
            for indices in np.split(
                np.arange(len(crystals)),
                range(CRYSTALS_PER_BUILD, len(crystals), CRYSTALS_PER_BUILD),
            )
        ]
        vectors, ends, edge_counts, line_ends, line_counts = (
            np.concatenate(arrays) for arrays in zip(*parts, strict=True)
        )
        return cls(
            atomic_numbers=crystals.atomic_numbers,
            vectors=vectors,
            ends=ends,
            line_ends=line_ends,
            site_ptr=crystals.ptr,
            edge_ptr=_offsets(edge_counts),
            line_ptr=_offsets(line_counts),
            targets=crystals.targets.astype(np.float32),
        )

    def batch(self, indices: NDArray[np.int64]) -> GraphBatch:
        """The crystals at ``indices`` (n,) as one disjoint graph."""
        sites, site_ptr = _gather(self.site_ptr, indices)
        edges, edge_ptr = _gather(self.edge_ptr, indices)
        lines, line_ptr = _gather(self.line_ptr, indices)
        ends = self.ends[edges] + np.repeat(site_ptr[:-1], np.diff(edge_ptr))[:, None]
        line_ends = self.line_ends[lines] + np.repeat(edge_ptr[:-1], np.diff(line_ptr))[:, None]
        tensor = torch.from_numpy
        return GraphBatch(
            atomic_numbers=tensor(self.atomic_numbers[sites]),
            site_ptr=tensor(site_ptr),
            vectors=tensor(self.vectors[edges]),
            src=tensor(ends[:, 0].copy()),
            dst=tensor(ends[:, 1].copy()),
            line_src=tensor(line_ends[:, 0].copy()),
            line_dst=tensor(line_ends[:, 1].copy()),
            targets=tensor(self.targets[indices]),
        )


def _build_part(crystals: LabelledCrystals, spec: GraphSpec) -> tuple[NDArray, ...]:
    """Vectors, local ends and counts of bonds, local ends and counts of bond pairs."""
    batch = crystals.batch()
    graph = Graph.build(batch, spec)
    neighbors, line = graph.neighbors, graph.line
    if line is None:
        raise ValueError("ALIGNN needs bond pairs; set line_graph in the GraphSpec")
    vectors = edge_vectors(batch.frac_coords, batch.lattice, neighbors)
    edge_ptr = neighbors.edge_ptr.numpy()
    edge_counts = np.diff(edge_ptr)
    ends = torch.stack([neighbors.src, neighbors.dst], dim=1).numpy()
    ends = ends - np.repeat(crystals.ptr[:-1], edge_counts)[:, None]
    line_ends = torch.stack([line.src, line.dst], dim=1).numpy()
    owner = np.repeat(np.arange(len(crystals)), edge_counts)[line_ends[:, 0]]
    order = np.argsort(owner, kind="stable")
    line_ends = (line_ends - edge_ptr[owner][:, None])[order]
    return (
        vectors.to(torch.float32).numpy(),
        ends.astype(np.int32),
        edge_counts,
        line_ends.astype(np.int32),
        np.bincount(owner, minlength=len(crystals)),
    )


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], counts.cumsum()])


def _gather(
    ptr: NDArray[np.int64], indices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the chosen groups of a ragged array, and the offsets of the result."""
    counts = ptr[indices + 1] - ptr[indices]
    offsets = _offsets(counts)
    rows = np.arange(offsets[-1]) + np.repeat(ptr[indices] - offsets[:-1], counts)
    return rows, offsets
