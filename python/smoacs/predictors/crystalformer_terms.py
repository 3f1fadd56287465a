"""The terms of Crystalformer's lattice sums: which periodic images each atom attends to.

An atom attends to every periodic image of every atom, itself included. The Gaussian weights make
all but the images within some 10 Å negligible, so the terms come from a neighbour list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.ops import NeighborList
from smoacs.predictors.layers import crystal_index

_STEPS_PER_OCTAVE = 8
_SLOT_STEP = 16


@dataclass(frozen=True)
class ImageBox:
    """Images that the published networks sum over, counted for coordinates inside the cell.

    Attributes
    ----------
    minimum : int
        All images from ``-minimum`` to ``minimum`` along each lattice vector take part.
    sigmas : float or None
        Small cells take more: for each atom and head, as many as reach this many standard
        deviations of its Gaussian. None: never more.
    """

    minimum: int = 2
    sigmas: float | None = 3.5


@dataclass(frozen=True)
class AtomPairs:
    """All ordered pairs of atoms of one crystal, P in total, crystals of equal size together.

    Attributes
    ----------
    sites : Tensor (S,), int64
        Sites in the order of the crystals' sizes.
    groups : tuple of (int, int)
        Of the next c * n of these sites, the c crystals of n sites each own the next c * n * n
        pairs; the second atom of the pairs varies fastest.
    first : Tensor (P,), int64
        First atom of each pair.
    row : Tensor (S,), int64
        Number of the pair of each atom with the first atom of its crystal.
    count : Tensor (S,), int64
        Number of pairs of each atom.
    """

    sites: Tensor
    groups: tuple[tuple[int, int], ...]
    first: Tensor
    row: Tensor
    count: Tensor

    @classmethod
    def of(cls, ptr: Tensor) -> AtomPairs:
        """Pairs of a batch with offsets ``ptr`` (C + 1,)."""
        sizes = ptr.diff()
        shapes = _counted(sizes)
        starts = ptr[:-1][sizes.argsort(stable=True)].split([count for count, _ in shapes])
        groups = [
            start[:, None] + torch.arange(n, device=ptr.device)
            for start, (_, n) in zip(starts, shapes, strict=True)
        ]
        sites = torch.cat([group.flatten() for group in groups])
        first = torch.cat([group.flatten().repeat_interleave(group.shape[1]) for group in groups])
        count = sizes[crystal_index(ptr, len(sites))]
        own = count[sites]
        row = torch.empty_like(sites).index_copy(0, sites, own.cumsum(0) - own)
        return cls(sites, shapes, first, row, count)

    def grouped(self, values: Tensor) -> list[Tensor]:
        """Values (S, ...) of the sites of each group, (c, n, ...)."""
        parts = values.index_select(0, self.sites).split([c * n for c, n in self.groups])
        return [p.unflatten(0, group) for p, group in zip(parts, self.groups, strict=True)]


@dataclass(frozen=True)
class Block:
    """Atoms with equally many slots, whose terms lie in ``slots`` as (len(atoms), -1)."""

    atoms: Tensor
    slots: slice


@dataclass(frozen=True)
class LatticeTerms:
    """Terms of all atoms of a batch, in rows of slots; a row ends with slots that hold no term.

    The number of an atom's slots depends on the number of its terms only.

    Attributes
    ----------
    lengths : Tensor (T,), float
        Distance in Å from the atom to the image; 0 for the atom itself and in empty slots.
    squares : Tensor (T,), float
        What stands for the squared distance in the exponent, Å^2.
    pair : Tensor (T,), int64
        Number of the pair of atom and imaged atom; the number of pairs P in empty slots.
    reach : Tensor (T,), float, or None
        Only heads whose standard deviation in Å is larger see the term.
    pairs : AtomPairs
    atoms : Tensor (S,), int64
        Atoms in the order of their rows, shortest rows first.
    rows : tuple of (int, int)
        Number of atoms with each length of row, in that order.
    start, count : Tensor (S,), int64
        First slot and number of terms of each atom.
    """

    lengths: Tensor
    squares: Tensor
    pair: Tensor
    reach: Tensor | None
    pairs: AtomPairs
    atoms: Tensor
    rows: tuple[tuple[int, int], ...]
    start: Tensor
    count: Tensor

    @classmethod
    def build(
        cls,
        vectors: Tensor,
        src: Tensor,
        dst: Tensor,
        ptr: Tensor,
        *,
        cutoff: float | None = None,
        reach: Tensor | None = None,
    ) -> LatticeTerms:
        """Terms from neighbours, differentiable in the vectors.

        Parameters
        ----------
        vectors : Tensor (E, 3), float
            Vectors of the edges from atoms to images, Å.
        src, dst : Tensor (E,), int64
            Atoms and imaged atoms, in the order of the former.
        ptr : Tensor (C + 1,), int64
            Offsets of the crystals' sites.
        cutoff : float, optional
            Distance in Å where weights end smoothly.
        reach : Tensor (E,), float, optional
            Standard deviation in Å that a Gaussian must exceed to see the image.
        """
        pairs = AtomPairs.of(ptr)
        n_sites = len(pairs.sites)
        counts = torch.searchsorted(src, torch.arange(n_sites + 1, device=src.device)).diff()
        slots = _row_length(counts + 1)
        atoms = slots.argsort(stable=True)
        start = torch.empty_like(slots)
        start[atoms] = slots[atoms].cumsum(0) - slots[atoms]
        # The atom's own term comes last, since it weighs most.
        own = start + counts
        slot = torch.arange(len(src), device=src.device)
        slot = slot + (start - counts.cumsum(0) + counts)[src]
        rows = _counted(slots)
        total = sum(count * length for count, length in rows)
        first_site = ptr[:-1][crystal_index(ptr, n_sites)]
        pair = torch.full((total,), pairs.first.numel(), dtype=torch.int64, device=src.device)
        pair[own] = pairs.row + torch.arange(n_sites, device=src.device) - first_site
        pair[slot] = (pairs.row - first_site)[src] + dst
        x, y, z = vectors.unbind(1)
        # Atoms at the same place have no direction; there the gradient is zero.
        squares = (x * x + y * y + z * z).clamp(min=1e-12)
        lengths = squares.sqrt()
        if cutoff is not None:
            squares = squares / (1 - squares / cutoff**2).clamp(min=1e-6)
        return cls(
            lengths=_at(slot, lengths, total),
            squares=_at(slot, squares, total),
            pair=pair,
            reach=None if reach is None else _at(slot, reach, total),
            pairs=pairs,
            atoms=atoms,
            rows=rows,
            start=start,
            count=counts + 1,
        )

    def blocks(self, max_slots: int) -> Iterator[Block]:
        """Blocks of at most ``max_slots`` slots (one atom at least)."""
        atom = slot = 0
        for count, length in self.rows:
            step = max(1, max_slots // length)
            for done in range(0, count, step):
                size = min(step, count - done)
                yield Block(self.atoms[atom : atom + size], slice(slot, slot + size * length))
                atom += size
                slot += size * length


def _counted(sizes: Tensor) -> tuple[tuple[int, int], ...]:
    """How often each size occurs, and the size, smallest first; a GPU is waited for."""
    values, counts = sizes.unique(return_counts=True)
    return tuple((count, size) for count, size in torch.stack([counts, values], dim=1).tolist())


def _at(slot: Tensor, values: Tensor, total: int) -> Tensor:
    return values.new_zeros(total).index_copy(0, slot, values)


def _row_length(counts: Tensor) -> Tensor:
    """Counts (S,) rounded up to one of a few lengths per power of two."""
    octave = torch.floor(torch.log2(counts.double()))
    step = (2**octave / _STEPS_PER_OCTAVE).clamp(min=_SLOT_STEP).long()
    return (counts + step - 1) // step * step


def images_in_box(
    crystals: CrystalBatch, neighbors: NeighborList, box: ImageBox, widest: float
) -> tuple[Tensor, Tensor | None]:
    """Neighbours that a box holds, without gradient.

    Parameters
    ----------
    crystals : CrystalBatch
    neighbors : NeighborList
    box : ImageBox
    widest : float
        Upper bound of the standard deviations in Å.

    Returns
    -------
    edges : Tensor (n,), int64
        Neighbours that a Gaussian may see.
    reach : Tensor (n,), float, or None
        Standard deviation in Å that it must exceed for that; None where all see all.
    """
    lattice = crystals.lattice.detach()
    normals = torch.linalg.cross(lattice.roll(-1, 1), lattice.roll(-2, 1), dim=2)
    volume = (lattice[:, 0] * normals[:, 0]).sum(1).abs()
    spacing = volume[:, None] / normals.norm(dim=2)
    cell = torch.floor(crystals.frac_coords.detach())
    image = (neighbors.shift + cell[neighbors.dst] - cell[neighbors.src]).abs()
    outside = image > box.minimum
    if box.sigmas is None:
        return torch.nonzero(~outside.any(1)).flatten(), None
    # The box holds image n if n <= ceil((sigmas * sigma + 0.01 Å) / spacing).
    crystal = crystals.crystal_index[neighbors.src]
    needed = (image - 1) * spacing[crystal] - 0.01
    reach = torch.where(outside, needed, 0.0).amax(1) / box.sigmas
    edges = torch.nonzero(reach < widest).flatten()
    reach = reach[edges]
    return edges, reach if bool((reach > 0).any()) else None
