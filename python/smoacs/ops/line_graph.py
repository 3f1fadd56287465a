"""Pairs of bonds that meet at a site."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smoacs.ops import _steps
from smoacs.ops._native import addresses, kernels
from smoacs.ops._operator import operator
from smoacs.ops.neighbors import NeighborList


@dataclass(frozen=True)
class LineGraph:
    """Pairs of edges ``a = (u -> v)``, ``b = (v -> w)`` of a neighbour list, by edge number.

    Ordered by ``dst``, then ``src``: the pairs that end at one edge are contiguous.

    Attributes
    ----------
    src : Tensor (T,), int64
        Edge a of each pair.
    dst : Tensor (T,), int64
        Edge b.
    """

    src: Tensor
    dst: Tensor


def line_graph(
    neighbors: NeighborList, *, cutoff: float | None = None, self_pairs: bool = False
) -> LineGraph:
    """Every pair of edges where the second starts at the site the first ends at.

    Going back, b the reverse of a, is a pair too.

    Parameters
    ----------
    neighbors : NeighborList
    cutoff : float, optional
        Only edges with distance <= cutoff (Å) form pairs.
    self_pairs : bool
        Whether an edge from a site to its own image pairs with itself: ALIGNN 2.0 does so, v1
        does not.

    Raises
    ------
    ValueError
        If the cutoff is negative or not a number.
    """
    keep = None
    if cutoff is not None:
        if math.isnan(cutoff) or cutoff < 0:
            raise ValueError(f"cutoff must not be negative, got {cutoff}")
        keep = neighbors.distance <= cutoff
    ends = (neighbors.src.contiguous(), neighbors.dst.contiguous())
    return LineGraph(*_line_graph(*ends, keep, self_pairs))


def _unknown_size(src: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    n_pairs = torch.library.get_ctx().new_dynamic_size()
    return src.new_empty(n_pairs), src.new_empty(n_pairs)


@operator("line_graph", fake=_unknown_size)
def _line_graph(
    src: Tensor, dst: Tensor, keep: Tensor | None, self_pairs: bool
) -> tuple[Tensor, Tensor]:
    if not src.is_cpu:
        return _steps.line_graph(src, dst, keep, self_pairs)
    pairs = kernels().find_pairs(
        **addresses(src=src, dst=dst, keep=0 if keep is None else keep),
        n_edges=src.shape[0],
        self_pairs=self_pairs,
    )
    first, second = src.new_empty(pairs.n_pairs), src.new_empty(pairs.n_pairs)
    pairs.write(**addresses(first=first, second=second))
    return first, second
