"""Neighbour lists, line graphs and edge vectors in plain torch: short, slow, and the oracle.

Everything here looks at all images in a box around each crystal and follows the rules as they are
written down, cutoff extension included. Differences from the compiled versions are bugs.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from smoacs.ops.line_graph import LineGraph
from smoacs.ops.neighbors import NeighborList

KNN_MIN_DISTANCE = 1e-4
SHELL_MIN_DISTANCE = 0.15

_Pairs = tuple[Tensor, Tensor, Tensor, Tensor]
"""src (P,), dst (P,), shift (P, 3) and distance (P,) within one crystal."""


def neighbor_list(
    frac_coords: Tensor,
    lattice: Tensor,
    ptr: Tensor,
    *,
    cutoff: float,
    k: int | None = None,
    rule: str = "radius",
    tie_tolerance: float = 1e-3,
) -> NeighborList:
    """See :func:`smoacs.ops.neighbor_list`; CPU only, and arguments are not checked."""
    found: list[_Pairs] = []
    for cell, start, stop in zip(
        lattice.double(), ptr[:-1].tolist(), ptr[1:].tolist(), strict=True
    ):
        alignn = rule == "knn_shell" and tie_tolerance == 0
        crystal = _Crystal(frac_coords[start:stop].double(), cell, alignn=alignn)
        if rule == "radius":
            pairs = crystal.pairs_within(cutoff)
        elif rule == "knn":
            pairs = _nearest(crystal, cutoff, k or 0, tie_tolerance)
        else:
            pairs = _shells(crystal, cutoff, k or 0, tie_tolerance)
        src, dst, shift, distance = _ordered(pairs)
        found.append((src + start, dst + start, shift, distance))
    counts = torch.tensor([0] + [len(src) for src, *_ in found])
    none = (ptr[:0], ptr[:0], ptr[:0].reshape(0, 3), lattice.double()[:0, 0, 0])
    src, dst, shift, distance = (torch.cat(parts) for parts in zip(none, *found, strict=True))
    return NeighborList(
        src, dst, shift.to(torch.int32), distance.to(frac_coords.dtype), counts.cumsum(0)
    )


def line_graph(
    neighbors: NeighborList, *, cutoff: float | None = None, self_pairs: bool = False
) -> LineGraph:
    """See :func:`smoacs.ops.line_graph`; memory grows with the square of the number of edges."""
    meets = neighbors.src[:, None] == neighbors.dst[None, :]  # rows b, columns a
    if cutoff is not None:
        keep = neighbors.distance <= cutoff
        meets = meets & keep[:, None] & keep[None, :]
    if not self_pairs:
        meets = meets & ~torch.eye(len(neighbors.src), dtype=torch.bool, device=meets.device)
    b, a = meets.nonzero(as_tuple=True)
    counts = meets.sum(1)
    return LineGraph(a, b, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def edge_vectors(frac_coords: Tensor, lattice: Tensor, neighbors: NeighborList) -> Tensor:
    """See :func:`smoacs.ops.edge_vectors`; any number of derivatives."""
    crystal = torch.repeat_interleave(
        torch.arange(lattice.shape[0], device=lattice.device), neighbors.edge_ptr.diff()
    )
    difference = frac_coords[neighbors.dst] - frac_coords[neighbors.src]
    steps = difference + neighbors.shift.to(difference.dtype)
    return torch.einsum("ei,eij->ej", steps, lattice[crystal])


class _Crystal:
    """One crystal and the way its pairs are measured."""

    def __init__(self, coords: Tensor, lattice: Tensor, *, alignn: bool = False) -> None:
        self.coords, self.lattice, self.alignn = coords, lattice, alignn

    def __len__(self) -> int:
        return len(self.coords)

    def distances(self, src: Tensor, dst: Tensor, shift: Tensor) -> Tensor:
        """Length of every pair; ALIGNN v1 takes positions by a lattice rounded to five decimals."""
        if not self.alignn:
            steps = (self.coords[dst] - self.coords[src]) + shift
            return _length(_times(steps, self.lattice))
        positions = _alignn_positions(self.coords, self.lattice)
        images = _times(shift.double(), self.lattice)
        return _length((images + positions[dst]) - positions[src])

    def pairs_within(self, radius: float) -> _Pairs:
        """All pairs up to a distance, except of a site with itself."""
        src, dst, shift = _images(self.coords, self.lattice, radius + 1e-3)
        distance = self.distances(src, dst, shift)
        return _take((src, dst, shift, distance), distance <= radius)


def _nearest(crystal: _Crystal, cutoff: float, k: int, tie_tolerance: float) -> _Pairs:
    pairs = crystal.pairs_within(cutoff)
    pairs = _take(pairs, pairs[3] > KNN_MIN_DISTANCE)
    rank = pairs[3]
    if tie_tolerance > 0:
        rank = (rank / tie_tolerance + 0.38196601125).floor()
    src, dst, shift, distance = _ordered(pairs, rank)
    counts = torch.bincount(src, minlength=len(crystal))
    place = torch.arange(len(src)) - (counts.cumsum(0) - counts)[src]
    return _take((src, dst, shift, distance), place < k)


def _shells(crystal: _Crystal, cutoff: float, k: int, tie_tolerance: float) -> _Pairs:
    n = len(crystal)
    if n == 0:
        return crystal.pairs_within(cutoff)
    longest = float(crystal.lattice.norm(dim=1).max())
    while True:
        pairs = crystal.pairs_within(cutoff + tie_tolerance)
        pairs = _take(pairs, pairs[3] > SHELL_MIN_DISTANCE)
        src, _, _, distance = pairs
        if int(torch.bincount(src[distance <= cutoff], minlength=n).min()) >= k:
            break
        cutoff = longest if cutoff < longest else 2 * cutoff
    reach = torch.stack([distance[src == i].sort().values[k - 1] for i in range(n)])
    src, dst, shift, _ = _take(pairs, distance <= reach[src] + tie_tolerance)
    # Every selected pair counts in both directions, once if it was selected from both of its ends;
    # a pair of images of one site, which has one end only, counts every time.
    ends = torch.cat([torch.stack([src, dst]), torch.stack([dst, src])], dim=1)
    again = torch.arange(ends.shape[1]) >= len(src)
    rows = torch.cat(
        [ends.T, torch.cat([shift, -shift]), (again & (ends[0] == ends[1]))[:, None]], dim=1
    ).unique(dim=0)
    src, dst, shift = rows[:, 0], rows[:, 1], rows[:, 2:5]
    return src, dst, shift, crystal.distances(src, dst, shift)


def _images(coords: Tensor, lattice: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Every (src, dst, shift) in a box that contains all pairs up to a distance."""
    n = len(coords)
    heights = 1 / torch.linalg.inv(lattice).norm(dim=0)
    spread = coords.amax(dim=0) - coords.amin(dim=0) if n else torch.zeros_like(heights)
    bounds = (radius / heights + spread + 1e-6).floor().long().tolist()
    ranges = [torch.arange(-b, b + 1) for b in bounds]
    shifts = torch.cartesian_prod(*ranges)
    site = torch.arange(n)
    src, dst, image = (
        grid.reshape(-1)
        for grid in torch.meshgrid(site, site, torch.arange(len(shifts)), indexing="ij")
    )
    shift = shifts[image]
    other = (src != dst) | (shift != 0).any(dim=1)
    return src[other], dst[other], shift[other]


def _times(row: Tensor, matrix: Tensor) -> Tensor:
    """Row vectors times a matrix, summed in a fixed order."""
    return row[:, 0:1] * matrix[0] + row[:, 1:2] * matrix[1] + row[:, 2:3] * matrix[2]


def _alignn_positions(coords: Tensor, lattice: Tensor) -> Tensor:
    """Product of coordinates and rounded lattice as NumPy gives it to ALIGNN v1, to the last bit.

    Its matrix product fuses multiply and add, which decides between ties; a single row does not
    go through it.
    """
    rounded = torch.from_numpy(lattice.numpy().round(5))
    if len(coords) == 1:
        return _times(coords, rounded)
    rows = [
        [_fused(z, c, _fused(y, b, x * a)) for a, b, c in rounded.T.tolist()]
        for x, y, z in coords.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)


def _fused(a: float, b: float, c: float) -> float:
    """``a * b + c``, rounded once."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def _length(vector: Tensor) -> Tensor:
    square = vector * vector
    # torch's own square root may be off by one unit in the last place.
    return torch.from_numpy(np.sqrt((square[:, 0] + square[:, 1] + square[:, 2]).numpy()))


def _take(pairs: _Pairs, which: Tensor) -> _Pairs:
    src, dst, shift, distance = pairs
    return src[which], dst[which], shift[which], distance[which]


def _ordered(pairs: _Pairs, rank: Tensor | None = None) -> _Pairs:
    """Sorted by (src, rank, dst, shift)."""
    src, dst, shift, _ = pairs
    order = torch.arange(len(src))
    for key in (shift[:, 2], shift[:, 1], shift[:, 0], dst, rank, src):
        if key is not None:
            order = order[key[order].argsort(stable=True)]
    return _take(pairs, order)
