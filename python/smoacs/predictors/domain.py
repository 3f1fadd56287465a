"""Which crystals a model's training data speak for."""

from __future__ import annotations

import math
from functools import cache

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from smoacs.chemistry.elements import atomic_number
from smoacs.chemistry.radii import site_radius
from smoacs.crystals import N_ELEMENTS, CrystalBatch, sum_by_crystal
from smoacs.ops import NeighborList

RARE_ELEMENT = "rare element"
CLOSE_ATOMS = "close atoms"
DENSITY = "density"


class Domain(BaseModel):
    """Limits that nearly all training crystals keep.

    Attributes
    ----------
    atomic_volumes : dict
        Mean volume in Å^3 that an atom takes up, by symbol, of the elements in enough training
        crystals to be known.
    volume : (float, float)
        Range of the cell's volume in units of the sum of its atoms' mean volumes.
    contact : float
        Least distance between two atoms in units of the sum of their radii.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    atomic_volumes: dict[str, float]
    volume: tuple[float, float]
    contact: float

    def outside(self, crystals: CrystalBatch, neighbors: NeighborList) -> dict[str, Tensor]:
        """Crystals beyond each limit, (C,) bool by reason.

        Parameters
        ----------
        crystals : CrystalBatch
            C crystals; their most probable elements count.
        neighbors : NeighborList
            At least the nearest neighbours of each atom.
        """
        table = torch.full((N_ELEMENTS + 1,), math.nan)
        for symbol, atomic_volume in self.atomic_volumes.items():
            table[atomic_number(symbol)] = atomic_volume
        total = sum_by_crystal(table.to(crystals.lattice)[crystals.atomic_numbers], crystals.ptr)
        volume = crystals.volume / total
        low, high = self.volume
        return {
            RARE_ELEMENT: total.isnan(),
            CLOSE_ATOMS: closest_contact(crystals, neighbors) < self.contact,
            DENSITY: (volume < low) | (volume > high),
        }


def closest_contact(crystals: CrystalBatch, neighbors: NeighborList) -> Tensor:
    """Least ratio of a distance to the sum of two atoms' radii, (C,); inf without neighbours."""
    radius = _radii().to(neighbors.distance)[crystals.atomic_numbers]
    ratio = neighbors.distance / (radius[neighbors.src] + radius[neighbors.dst])
    owner = crystals.crystal_index[neighbors.src]
    return ratio.new_full((len(crystals),), math.inf).scatter_reduce(0, owner, ratio, "amin")


@cache
def _radii() -> Tensor:
    """Atomic radii in Å by atomic number, (99,); the first entry is no element."""
    return torch.tensor([math.nan, *(site_radius(z, 0) for z in range(1, N_ELEMENTS + 1))])
