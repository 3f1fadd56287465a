"""Pairs of bonds that meet at a site."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from smoacs.ops import _steps
from smoacs.ops._grouping import grouped
from smoacs.ops._native import addresses, kernels
from smoacs.ops._operator import operator
from smoacs.ops.gated_messages import Incidence
from smoacs.ops.neighbors import NeighborList, check_capacity, fit


@dataclass(frozen=True)
class LineGraph:
    """Pairs of edges ``a = (u -> v)``, ``b = (v -> w)`` of a neighbour list, by edge number.

    Ordered by ``dst``, then ``src``.

    Attributes
    ----------
    src : Tensor (T,), int64
        Edge a of each pair.
    dst : Tensor (T,), int64
        Edge b.
    pair_ptr : Tensor (E + 1,), int64
        Offsets of the pairs of each edge b, from 0 to T.
    """

    src: Tensor
    dst: Tensor
    pair_ptr: Tensor

    def incidence(self) -> Incidence:
        """The pairs that each edge is the first and the second of."""
        n_pairs, n_edges = len(self.dst), len(self.pair_ptr) - 1
        # They are in the order of their second edges; where there are too many, the last are left
        # out.
        by_dst = torch.arange(n_pairs, device=self.dst.device)
        first_in = self.pair_ptr.clamp(max=n_pairs)
        return Incidence(self.src, self.dst, *grouped(self.src, n_edges), by_dst, first_in)


def line_graph(
    neighbors: NeighborList,
    *,
    cutoff: float | None = None,
    self_pairs: bool = False,
    capacity: int | None = None,
) -> LineGraph:
    """Every pair of edges where the second starts at the site the first ends at.

    Going back, b the reverse of a, is a pair too.

    Parameters
    ----------
    neighbors : NeighborList
        With or without a capacity; what is not an edge is in no pair.
    cutoff : float, optional
        Only edges with distance <= cutoff (Å) form pairs.
    self_pairs : bool
        Whether an edge from a site to its own image pairs with itself: ALIGNN 2.0 does so, v1
        does not.
    capacity : int, optional
        Number T of rows, as in :func:`neighbor_list`: a GPU is not waited for. Rows that are not
        pairs have ``src`` and ``dst`` E, and pairs beyond it are dropped: ``pair_ptr[-1]``, which
        counts all pairs, is larger then.

    Raises
    ------
    ValueError
        If the cutoff is negative or not a number, or the capacity is negative.
    """
    if cutoff is not None and (math.isnan(cutoff) or cutoff < 0):
        raise ValueError(f"cutoff must not be negative, got {cutoff}")
    check_capacity(capacity)
    keep = neighbors.distance < math.inf  # torch's isfinite takes several times as long
    if cutoff is not None:
        keep &= neighbors.distance <= cutoff
    ends = (neighbors.src.contiguous(), neighbors.dst.contiguous())
    return LineGraph(*_line_graph(*ends, keep, self_pairs, capacity))


def _fake(
    src: Tensor, dst: Tensor, keep: Tensor, self_pairs: bool, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size() if capacity is None else capacity
    return src.new_empty(size), src.new_empty(size), src.new_empty(src.shape[0] + 1)


@operator("line_graph", fake=_fake, constant=True)
def _line_graph(
    src: Tensor, dst: Tensor, keep: Tensor, self_pairs: bool, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    if not src.is_cpu:
        return _steps.line_graph(src, dst, keep, self_pairs, capacity)
    n_edges = src.shape[0]
    pairs = kernels().find_pairs(
        **addresses(src=src, dst=dst, keep=keep), n_edges=n_edges, self_pairs=self_pairs
    )
    first, second = src.new_empty(pairs.n_pairs), src.new_empty(pairs.n_pairs)
    pair_ptr = src.new_empty(n_edges + 1)
    pairs.write(**addresses(first=first, second=second, pair_ptr=pair_ptr))
    if capacity is not None:
        first, second = (fit(src.new_full((capacity,), n_edges), rows) for rows in (first, second))
    return first, second, pair_ptr
