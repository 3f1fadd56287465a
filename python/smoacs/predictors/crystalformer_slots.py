"""Rows of slots, which the terms of Crystalformer's lattice sums fill for work in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from smoacs.predictors.crystalformer_terms import LatticeTerms
from smoacs.predictors.layers import crystal_index

_STEPS_PER_OCTAVE = 8
_SLOT_STEP = 16


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
    """

    sites: Tensor
    groups: tuple[tuple[int, int], ...]
    first: Tensor
    row: Tensor

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
        own = sizes[crystal_index(ptr, len(sites))][sites]
        row = torch.empty_like(sites).index_copy(0, sites, own.cumsum(0) - own)
        return cls(sites, shapes, first, row)

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
class Slots:
    """Terms of all atoms of a batch, themselves included, in rows that end with empty slots.

    The number of an atom's slots depends on the number of its terms only.

    Attributes
    ----------
    lengths, squares, reach : Tensor (N,), float
        As in :class:`LatticeTerms`; 0 for the atom itself and in empty slots.
    pair : Tensor (N,), int64
        Number of the pair of atom and imaged atom; the number of pairs P in empty slots.
    pairs : AtomPairs
    atoms : Tensor (S,), int64
        Atoms in the order of their rows, shortest rows first.
    rows : tuple of (int, int)
        Number of atoms with each length of row, in that order.
    """

    lengths: Tensor
    squares: Tensor
    reach: Tensor | None
    pair: Tensor
    pairs: AtomPairs
    atoms: Tensor
    rows: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, terms: LatticeTerms) -> Slots:
        """Slots of these terms."""
        pairs = AtomPairs.of(terms.ptr)
        n_sites, device = len(pairs.sites), terms.ptr.device
        counts = terms.first_term.diff()
        slots = _row_length(counts + 1)
        atoms = slots.argsort(stable=True)
        start = torch.empty_like(slots)
        start[atoms] = slots[atoms].cumsum(0) - slots[atoms]
        # The atom's own term comes last, since it weighs most.
        own = start + counts
        slot = torch.arange(len(terms.atom), device=device)
        slot = slot + (start - terms.first_term[:-1])[terms.atom]
        rows = _counted(slots)
        total = sum(count * length for count, length in rows)
        first_site = terms.ptr[:-1][crystal_index(terms.ptr, n_sites)]
        pair = torch.full((total,), pairs.first.numel(), dtype=torch.int64, device=device)
        pair[own] = pairs.row + torch.arange(n_sites, device=device) - first_site
        pair[slot] = (pairs.row - first_site)[terms.atom] + terms.image_of
        return cls(
            lengths=_at(slot, terms.lengths, total),
            squares=_at(slot, terms.squares, total),
            reach=None if terms.reach is None else _at(slot, terms.reach, total),
            pair=pair,
            pairs=pairs,
            atoms=atoms,
            rows=rows,
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
