"""Neighbour lists, line graphs and edge vectors on a GPU: kernels joined by torch's own primitives.

Nothing here depends on the device, so that the tests also run it on the CPU, where the compiled
steps work on one atom after the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from smoacs.ops._grouping import grouped
from smoacs.ops._native import addresses, dtype_name, kernels, launch, stream_of


class Query(NamedTuple):
    """Which edges are wanted; see :func:`smoacs.ops.neighbor_list`."""

    rule: str
    cutoff: float
    k: int
    tie_tolerance: float


class Edges(NamedTuple):
    """Geometry and edges, contiguous; see :func:`smoacs.ops.edge_vectors`."""

    frac_coords: Tensor
    lattice: Tensor
    src: Tensor
    dst: Tensor
    shift: Tensor
    edge_ptr: Tensor

    def arguments(self) -> dict[str, Any]:
        """What the compiled module wants to know of them."""
        return {
            **addresses(**self._asdict()),
            "n_sites": self.frac_coords.shape[0],
            "n_crystals": self.lattice.shape[0],
            "n_edges": self.src.shape[0],
        }


def neighbor_list(
    frac_coords: Tensor, lattice: Tensor, ptr: Tensor, query: Query, capacity: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """src, dst, shift, distance and edge_ptr.

    The host waits once, for the number of edges, or not at all if there is a capacity.
    """
    module, device = kernels(), frac_coords.device
    n_sites, n_crystals = frac_coords.shape[0], lattice.shape[0]
    coords, cells = frac_coords.double().contiguous(), lattice.double().contiguous()
    scratch = {
        "cells": _bytes(n_crystals * module.SEARCH_CELL_BYTES, device),
        "sites": _bytes(n_sites * module.SEARCH_SITE_BYTES, device),
        "bin": ptr.new_zeros(n_sites),
        "reach": coords.new_zeros(n_sites),
        "longest_reach": coords.new_zeros(n_crystals),
        "last": _bytes(n_sites * module.LAST_NEIGHBOR_BYTES, device),
        "counts": ptr.new_zeros(n_sites),
        "faults": ptr.new_full((module.NEIGHBOR_STEPS,), module.NO_NEIGHBOR_FAULT),
    }
    with stream_of(frac_coords) as stream:
        steps = module.NeighborSteps(
            **query._asdict(),
            **addresses(frac_coords=coords, lattice=cells, ptr=ptr, **scratch),
            n_sites=n_sites,
            n_crystals=n_crystals,
            stream=stream,
        )
        steps.prepare()
        by_bin, first = grouped(scratch["bin"], n_sites)
        steps.use_bins(**addresses(by_bin=by_bin, first=first))
        if query.rule != "radius":
            steps.find_reach()
        if query.rule == "knn_shell":
            sites = torch.arange(n_sites, device=device)
            owner = (torch.searchsorted(ptr, sites, right=True) - 1).clamp(0, n_crystals - 1)
            scratch["longest_reach"].scatter_reduce_(0, owner, scratch["reach"], "amax")
        steps.count()
        starts = _offsets(scratch["counts"])
        fault = scratch["faults"].amin(0, keepdim=True)
        edge_ptr = starts[ptr.clamp(0, n_sites)]
        if capacity is None:
            code, size = torch.cat([fault, starts[-1:]]).tolist()
            if code != module.NO_NEIGHBOR_FAULT:
                raise ValueError(module.describe_neighbor_fault(code))
        else:
            size = capacity
            edge_ptr = torch.where(fault == module.NO_NEIGHBOR_FAULT, edge_ptr, -1)
        arcs = _bytes(size * module.ARC_BYTES, device)
        src, dst, shift, distance = no_edges(frac_coords, size)
        steps.fill(
            **addresses(starts=starts, arcs=arcs, src=src, dst=dst, shift=shift, distance=distance),
            capacity=size,
            dtype=dtype_name(frac_coords),
        )
    return src, dst, shift, distance, edge_ptr


def no_edges(frac_coords: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """src, dst, shift and distance of rows that are not edges."""
    src = torch.full((size,), frac_coords.shape[0], device=frac_coords.device)
    shift = torch.zeros(size, 3, dtype=torch.int32, device=frac_coords.device)
    return src, src.clone(), shift, frac_coords.new_full((size,), torch.inf)


def line_graph(
    src: Tensor, dst: Tensor, keep: Tensor, self_pairs: bool, capacity: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges a and b of each pair, and pair_ptr.

    The host waits once, for the number of pairs, or not at all if there is a capacity.
    """
    n_edges = src.shape[0]
    # Edges left out end at a site past all others, where nothing starts.
    ends, by_dst = torch.sort(torch.where(keep, dst, torch.iinfo(dst.dtype).max), stable=True)
    first = torch.searchsorted(ends, src)
    counts = torch.searchsorted(ends, src, right=True) - first
    if not self_pairs:
        counts = counts - (src == dst).to(counts.dtype)
    starts = _offsets(counts * keep)
    size = int(starts[-1]) if capacity is None else capacity
    a, b = src.new_full((size,), n_edges), src.new_full((size,), n_edges)
    with stream_of(src) as stream:
        kernels().fill_pairs(
            **addresses(src=src, dst=dst, by_dst=by_dst, first=first, starts=starts, a=a, b=b),
            n_edges=n_edges,
            capacity=size,
            self_pairs=self_pairs,
            stream=stream,
        )
    return a, b, starts


def edge_vectors(edges: Edges, out: Tensor) -> None:
    """Vector of each edge: zero where there is none, NaN if a site is not there."""
    inputs = kernels().EdgeInputs(**edges.arguments())
    launch("edge_vectors_in_steps", out, inputs, out=out)


def edge_vectors_backward(
    edges: Edges, grad: Tensor, grad_frac_coords: Tensor, grad_lattice: Tensor
) -> None:
    """Gradients of coordinates and lattices, without atomic additions."""
    module = kernels()
    # The offsets of a list that was too small count edges that are not there.
    edges = edges._replace(edge_ptr=edges.edge_ptr.clamp(0, len(edges.src)))
    n_sites, n_crystals, device = len(edges.frac_coords), len(edges.lattice), grad.device
    by_src, first_out = grouped(edges.src, n_sites)
    by_dst, first_in = grouped(edges.dst, n_sites)
    size = module.EDGES_PER_CHUNK
    n_chunks = len(edges.src) // size + n_crystals  # at least as many as there are
    launch(
        "edge_gradients_in_steps",
        grad,
        module.EdgeInputs(**edges.arguments()),
        grad=grad,
        by_src=by_src,
        first_out=first_out,
        by_dst=by_dst,
        first_in=first_in,
        n_chunks=n_chunks,
        chunk_ptr=_offsets((edges.edge_ptr.diff() + size - 1) // size),
        chunk_sums=torch.empty(n_chunks, 3, 3, dtype=torch.float64, device=device),
        grad_frac_coords=grad_frac_coords,
        grad_lattice=grad_lattice,
    )


def _bytes(n: int, device: torch.device) -> Tensor:
    return torch.empty(n, dtype=torch.uint8, device=device)


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
