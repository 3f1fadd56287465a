"""A ragged batch of crystals whose sites hold distributions over elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Composition, Structure

N_ELEMENTS = 98
"""Elements a site can hold: column ``z`` of a composition is atomic number ``z + 1`` (H to Cf)."""


@dataclass(frozen=True)
class CrystalBatch:
    """C crystals with S sites in total, concatenated; crystal c owns sites ``ptr[c]:ptr[c + 1]``.

    Attributes
    ----------
    lattice : Tensor (C, 3, 3), float
        Lattice vectors in Å, one per row.
    frac_coords : Tensor (S, 3), float
        Fractional coordinates. They are not wrapped: a neighbour list refers to these very values.
    composition : Tensor (S, 98), float
        Distribution over the elements Z = 1..98 of each site; one-hot for an ordinary crystal.
    ptr : Tensor (C + 1,), int64
        Offsets of the crystals' sites, from 0 to S.
    """

    lattice: Tensor
    frac_coords: Tensor
    composition: Tensor
    ptr: Tensor

    def __len__(self) -> int:
        return self.ptr.numel() - 1

    @property
    def n_sites(self) -> Tensor:
        """Number of sites of each crystal, (C,) int64."""
        return self.ptr.diff()

    @property
    def crystal_index(self) -> Tensor:
        """Crystal that owns each site, (S,) int64."""
        return torch.repeat_interleave(
            torch.arange(len(self), device=self.ptr.device),
            self.n_sites,
            output_size=self.frac_coords.shape[0],
        )

    @property
    def atomic_numbers(self) -> Tensor:
        """Most probable element of each site, (S,) int64; ties go to the lighter element."""
        return self.composition.argmax(dim=1) + 1

    @property
    def cart_coords(self) -> Tensor:
        """Cartesian coordinates in Å, (S, 3)."""
        return torch.einsum("si,sij->sj", self.frac_coords, self.lattice[self.crystal_index])

    @property
    def volume(self) -> Tensor:
        """Cell volumes in Å^3, (C,), always positive."""
        return torch.linalg.det(self.lattice).abs()

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Copy to a device and floating-point type; the offsets stay int64."""
        return replace(
            self,
            lattice=self.lattice.to(device=device, dtype=dtype),
            frac_coords=self.frac_coords.to(device=device, dtype=dtype),
            composition=self.composition.to(device=device, dtype=dtype),
            ptr=self.ptr.to(device=device),
        )

    def detach(self) -> Self:
        """The same batch cut off from the autograd graph."""
        return replace(
            self,
            lattice=self.lattice.detach(),
            frac_coords=self.frac_coords.detach(),
            composition=self.composition.detach(),
        )

    def select(self, indices: Sequence[int] | Tensor) -> Self:
        """The crystals at ``indices``, in that order, differentiably.

        Parameters
        ----------
        indices : sequence of int or Tensor (n,), int64
            Crystals to take; repeats are allowed.
        """
        index = torch.as_tensor(indices, dtype=torch.int64, device=self.ptr.device)
        sites, ptr = ragged_rows(self.ptr, index)
        return replace(
            self,
            lattice=self.lattice[index],
            frac_coords=self.frac_coords[sites],
            composition=self.composition[sites],
            ptr=ptr,
        )

    @classmethod
    def from_structures(
        cls,
        structures: Sequence[Structure],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Batch of pymatgen structures; disordered sites become distributions.

        Raises
        ------
        ValueError
            If a structure has no site, a partly vacant site, or an element beyond Z = 98.
        """
        lattices, coords, counts = [], [], []
        rows: list[Tensor] = []
        for number, structure in enumerate(structures):
            if len(structure) == 0:
                raise ValueError(f"structure {number} has no site")
            lattices.append(torch.tensor(structure.lattice.matrix.copy(), dtype=torch.float64))
            coords.append(torch.tensor(structure.frac_coords.copy(), dtype=torch.float64))
            counts.append(len(structure))
            rows.extend(_composition_row(site.species, number) for site in structure)
        return cls._assemble(lattices, coords, rows, counts, dtype, device)

    @classmethod
    def from_ase(
        cls,
        atoms: Sequence[Atoms],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Batch of ASE atoms, periodic in all directions; coordinates are kept as they are.

        Raises
        ------
        ValueError
            If an object has no atom, no cell, or an element beyond Z = 98.
        """
        lattices, coords, counts = [], [], []
        rows: list[Tensor] = []
        for number, crystal in enumerate(atoms):
            if len(crystal) == 0:
                raise ValueError(f"structure {number} has no site")
            if abs(crystal.cell.volume) < 1e-6:
                raise ValueError(f"structure {number} has no three-dimensional cell")
            lattices.append(torch.tensor(crystal.cell.array.copy(), dtype=torch.float64))
            coords.append(
                torch.tensor(crystal.get_scaled_positions(wrap=False), dtype=torch.float64)
            )
            counts.append(len(crystal))
            rows.extend(_one_hot_row(int(z), number) for z in crystal.numbers)
        return cls._assemble(lattices, coords, rows, counts, dtype, device)

    @classmethod
    def _assemble(
        cls,
        lattices: list[Tensor],
        coords: list[Tensor],
        rows: list[Tensor],
        counts: list[int],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Self:
        if not lattices:
            raise ValueError("a batch needs at least one structure, got none")
        ptr = torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)
        return cls(torch.stack(lattices), torch.cat(coords), torch.stack(rows), ptr).to(
            device, dtype
        )

    def to_structures(self) -> list[Structure]:
        """Structures (pymatgen) of the most probable elements, coordinates in [0, 1)."""
        from pymatgen.core import Structure

        lattice = self.lattice.detach().double().cpu().numpy()
        coords = self.frac_coords.detach().double().cpu().numpy()
        numbers = self.atomic_numbers.tolist()
        bounds = self.ptr.tolist()
        return [
            Structure(lattice[c], numbers[start:stop], coords[start:stop], to_unit_cell=True)
            for c, (start, stop) in enumerate(pairwise(bounds))
        ]

    def to_ase(self) -> list[Atoms]:
        """ASE atoms, periodic, with the most probable element on each site."""
        return [structure.to_ase_atoms(msonable=False) for structure in self.to_structures()]


def sum_by_crystal(values: Tensor, ptr: Tensor) -> Tensor:
    """Sum over the sites of each crystal, added up in the order of the sites.

    Parameters
    ----------
    values : Tensor (S, ...), float
    ptr : Tensor (C + 1,), int64
        Offsets of the crystals' sites.

    Returns
    -------
    Tensor (C, ...)
    """
    if not values.is_cpu:  # where index_add knows no order
        return torch.segment_reduce(values, "sum", offsets=ptr, axis=0, unsafe=True)
    crystals = torch.arange(ptr.numel() - 1)
    owner = torch.repeat_interleave(crystals, ptr.diff(), output_size=len(values))
    return values.new_zeros(len(crystals), *values.shape[1:]).index_add(0, owner, values)


def ragged_rows(ptr: Tensor, groups: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """Row numbers of the chosen groups of a ragged array, and the offsets of the result.

    Parameters
    ----------
    ptr : Tensor (C + 1,), int64
        Offsets of the groups.
    groups : Tensor (n,), int64
        Groups to take, in this order.
    total : int, optional
        Number R of their rows; a GPU need not be asked for it then.

    Returns
    -------
    rows : Tensor (R,), int64
    ptr : Tensor (n + 1,), int64
    """
    counts = ptr.diff()[groups]
    new_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(new_ptr[-1]) if total is None else total
    group = torch.repeat_interleave(
        torch.arange(groups.numel(), device=ptr.device), counts, output_size=total
    )
    rows = torch.arange(total, device=ptr.device) - new_ptr[group] + ptr[groups][group]
    return rows, new_ptr


def _one_hot_row(z: int, structure: int) -> Tensor:
    if not 1 <= z <= N_ELEMENTS:
        raise ValueError(
            f"structure {structure} holds atomic number {z}; smoacs knows 1 to {N_ELEMENTS}"
        )
    row = torch.zeros(N_ELEMENTS, dtype=torch.float64)
    row[z - 1] = 1.0
    return row


def _composition_row(species: Composition, structure: int) -> Tensor:
    occupancies = species.element_composition
    if abs(occupancies.num_atoms - 1.0) > 1e-3:
        raise ValueError(
            f"structure {structure} has a site occupied by {occupancies.num_atoms:.3f} atoms; "
            "smoacs needs fully occupied sites"
        )
    row = torch.zeros(N_ELEMENTS, dtype=torch.float64)
    for element, amount in occupancies.items():
        row += amount * _one_hot_row(element.Z, structure)
    return row / row.sum()
