"""Neighbour lists, line graphs and edge vectors on a GPU: kernels joined by torch's own primitives.

Nothing here depends on the device, so that the tests also run it on the CPU, where the compiled
steps work on one atom after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smoacs.ops._native import dtype_name, kernels, stream_of


def neighbor_list(
    frac_coords: Tensor,
    lattice: Tensor,
    ptr: Tensor,
    rule: str,
    cutoff: float,
    k: int,
    tie_tolerance: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """src, dst, shift, distance and edge_ptr; the host waits once, for the number of edges."""
    module, device = kernels(), frac_coords.device
    n_sites, n_crystals = frac_coords.shape[0], lattice.shape[0]
    coords, cells = frac_coords.double().contiguous(), lattice.double().contiguous()
    scratch = {
        "cells": _bytes(n_crystals * module.SEARCH_CELL_BYTES, device),
        "sites": _bytes(n_sites * module.SEARCH_SITE_BYTES, device),
        "bin": ptr.new_zeros(n_sites),
        "reach": coords.new_zeros(n_sites),
        "longest_reach": coords.new_zeros(n_crystals),
        "counts": ptr.new_zeros(n_sites),
        "fault": ptr.new_full((1,), module.NO_NEIGHBOR_FAULT),
    }
    with stream_of(frac_coords) as stream:
        steps = module.NeighborSteps(
            rule=rule,
            cutoff=cutoff,
            k=k,
            tie_tolerance=tie_tolerance,
            n_sites=n_sites,
            n_crystals=n_crystals,
            frac_coords=coords.data_ptr(),
            lattice=cells.data_ptr(),
            ptr=ptr.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in scratch.items()},
            stream=stream,
        )
        steps.prepare()
        by_bin, first = _grouped(scratch["bin"], n_sites)
        steps.use_bins(by_bin=by_bin.data_ptr(), first=first.data_ptr())
        if rule != "radius":
            steps.find_reach()
        if rule == "knn_shell":
            sites = torch.arange(n_sites, device=device)
            owner = (torch.searchsorted(ptr, sites, right=True) - 1).clamp(0, n_crystals - 1)
            scratch["longest_reach"].scatter_reduce_(0, owner, scratch["reach"], "amax")
        steps.count()
        counts = scratch["counts"]
        starts = _offsets(counts)
        edge_starts = _offsets(counts.clamp(max=k)) if rule == "knn" else starts
        fault, n_candidates, n_edges = torch.stack(
            [scratch["fault"][0], starts[-1], edge_starts[-1]]
        ).tolist()
        message = module.describe_neighbor_fault(fault)
        if message is not None:
            raise ValueError(message)
        candidates = _bytes(n_candidates * module.CANDIDATE_BYTES, device)
        steps.fill(
            starts=starts.data_ptr(), candidates=candidates.data_ptr(), n_candidates=n_candidates
        )
        src, dst = ptr.new_empty(n_edges), ptr.new_empty(n_edges)
        shift = ptr.new_empty(n_edges, 3, dtype=torch.int32)
        distance = frac_coords.new_empty(n_edges)
        steps.finish(
            starts=edge_starts.data_ptr(),
            src=src.data_ptr(),
            dst=dst.data_ptr(),
            shift=shift.data_ptr(),
            distance=distance.data_ptr(),
            n_edges=n_edges,
            dtype=dtype_name(frac_coords),
        )
    return src, dst, shift, distance, edge_starts[ptr]


def line_graph(
    src: Tensor, dst: Tensor, keep: Tensor | None, self_pairs: bool
) -> tuple[Tensor, Tensor]:
    """Edges a and b of each pair; the host waits once, for the number of pairs."""
    n_edges = src.shape[0]
    # Edges left out end at a site past all others, where nothing starts.
    ends = dst if keep is None else torch.where(keep, dst, torch.iinfo(dst.dtype).max)
    ends, by_dst = torch.sort(ends, stable=True)
    first = torch.searchsorted(ends, src)
    counts = torch.searchsorted(ends, src, right=True) - first
    if not self_pairs:
        counts = counts - (src == dst).to(counts.dtype)
    if keep is not None:
        counts = counts * keep
    starts = _offsets(counts)
    n_pairs = int(starts[-1])
    a, b = src.new_empty(n_pairs), src.new_empty(n_pairs)
    with stream_of(src) as stream:
        kernels().fill_pairs(
            n_edges=n_edges,
            src=src.data_ptr(),
            dst=dst.data_ptr(),
            by_dst=by_dst.data_ptr(),
            first=first.data_ptr(),
            starts=starts.data_ptr(),
            self_pairs=self_pairs,
            a=a.data_ptr(),
            b=b.data_ptr(),
            n_pairs=n_pairs,
            stream=stream,
        )
    return a, b


def edge_vectors(
    frac_coords: Tensor, lattice: Tensor, src: Tensor, dst: Tensor, shift: Tensor, edge_ptr: Tensor
) -> Tensor:
    """Vector of each edge; NaN if a site is not there."""
    out = frac_coords.new_empty(src.shape[0], 3)
    with stream_of(src) as stream:
        kernels().edge_vectors_in_steps(
            _inputs(frac_coords, lattice, src, dst, shift, edge_ptr),
            out=out.data_ptr(),
            dtype=dtype_name(frac_coords),
            stream=stream,
        )
    return out


def edge_vectors_backward(
    grad: Tensor,
    frac_coords: Tensor,
    lattice: Tensor,
    src: Tensor,
    dst: Tensor,
    shift: Tensor,
    edge_ptr: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of coordinates and lattices, without atomic additions."""
    module = kernels()
    n_sites, n_crystals = frac_coords.shape[0], lattice.shape[0]
    by_src, first_out = _grouped(src, n_sites)
    by_dst, first_in = _grouped(dst, n_sites)
    size = module.EDGES_PER_CHUNK
    chunk_ptr = _offsets((edge_ptr.diff() + size - 1) // size)
    n_chunks = src.shape[0] // size + n_crystals  # at least as many as there are
    chunk_sums = torch.empty(n_chunks, 3, 3, dtype=torch.float64, device=src.device)
    grad_frac_coords, grad_lattice = torch.empty_like(frac_coords), torch.empty_like(lattice)
    with stream_of(src) as stream:
        module.edge_gradients_in_steps(
            _inputs(frac_coords, lattice, src, dst, shift, edge_ptr),
            grad=grad.data_ptr(),
            by_src=by_src.data_ptr(),
            first_out=first_out.data_ptr(),
            by_dst=by_dst.data_ptr(),
            first_in=first_in.data_ptr(),
            n_chunks=n_chunks,
            chunk_ptr=chunk_ptr.data_ptr(),
            chunk_sums=chunk_sums.data_ptr(),
            grad_frac_coords=grad_frac_coords.data_ptr(),
            grad_lattice=grad_lattice.data_ptr(),
            dtype=dtype_name(frac_coords),
            stream=stream,
        )
    return grad_frac_coords, grad_lattice


def _inputs(
    frac_coords: Tensor, lattice: Tensor, src: Tensor, dst: Tensor, shift: Tensor, edge_ptr: Tensor
) -> object:
    return kernels().EdgeInputs(
        n_sites=frac_coords.shape[0],
        n_crystals=lattice.shape[0],
        n_edges=src.shape[0],
        frac_coords=frac_coords.data_ptr(),
        lattice=lattice.data_ptr(),
        src=src.data_ptr(),
        dst=dst.data_ptr(),
        shift=shift.data_ptr(),
        edge_ptr=edge_ptr.data_ptr(),
    )


def _bytes(n: int, device: torch.device) -> Tensor:
    return torch.empty(n, dtype=torch.uint8, device=device)


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _grouped(group: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Rows in ascending order of their group, and where each group starts (n_groups + 1,)."""
    ordered, rows = torch.sort(group, stable=True)
    return rows, torch.searchsorted(ordered, torch.arange(n_groups + 1, device=group.device))
