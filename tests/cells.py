"""Periodic cells of every awkward kind, for the tests of neighbour lists and their users."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from smoacs.ops import NeighborList


@dataclass(frozen=True)
class Cells:
    """A batch of cells: the first three arguments of ``neighbor_list``."""

    frac_coords: Tensor
    lattice: Tensor
    ptr: Tensor

    def __iter__(self):
        return iter((self.frac_coords, self.lattice, self.ptr))

    def to(self, *args) -> Cells:
        return Cells(self.frac_coords.to(*args), self.lattice.to(*args), self.ptr.to(args[0]))

    def one(self, c: int) -> Cells:
        """Crystal c alone."""
        start, stop = self.ptr[c : c + 2].tolist()
        ptr = self.ptr[c : c + 2] - start
        return Cells(self.frac_coords[start:stop], self.lattice[c : c + 1], ptr)

    @property
    def n_sites(self) -> int:
        return self.frac_coords.shape[0]

    @property
    def owner(self) -> Tensor:
        """Crystal of each site."""
        return torch.repeat_interleave(torch.arange(len(self.lattice)), self.ptr.diff())


def cell(lattice, frac_coords) -> Cells:
    frac = torch.as_tensor(np.asarray(frac_coords, dtype=float)).reshape(-1, 3)
    matrix = torch.as_tensor(np.ascontiguousarray(lattice, dtype=float))
    return Cells(frac, matrix[None], torch.tensor([0, len(frac)]))


def batch(*cells: Cells) -> Cells:
    sizes = torch.cat([c.ptr.diff() for c in cells])
    return Cells(
        torch.cat([c.frac_coords for c in cells]),
        torch.cat([c.lattice for c in cells]),
        torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
    )


def random_cell(n_sites: int, seed: int, scale: float = 4.0) -> Cells:
    rng = np.random.default_rng(seed)
    lattice = scale * (np.eye(3) + 0.25 * rng.standard_normal((3, 3)))
    return cell(lattice, rng.random((n_sites, 3)))


PEROVSKITE_SITES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
CUBIC = cell(3.905 * np.eye(3), PEROVSKITE_SITES)
FCC = cell(1.8 * (np.ones((3, 3)) - np.eye(3)), [[0, 0, 0]])
HEXAGONAL = cell(
    [[3.25, 0, 0], [-1.625, 1.625 * 3**0.5, 0], [0, 0, 5.2]],
    [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.382], [2 / 3, 1 / 3, 0.882]],
)
_GENERIC = random_cell(4, seed=1)
NO_SITE = cell(3 * np.eye(3), np.zeros((0, 3)))

CELLS = {
    "cubic ties": CUBIC,
    "fcc, one site": FCC,
    "hexagonal ties": HEXAGONAL,
    "no symmetry": _GENERIC,
    "skewed": cell([[3, 0, 0], [8.1, 2.9, 0], [-7, 5.5, 3.3]], _GENERIC.frac_coords),
    "tiny": cell(np.diag([0.9, 1.1, 1.0]), [[0.2, 0.3, 0.4]]),
    "elongated": cell(np.diag([2.1, 2.3, 31.0]), [[0, 0, 0.1], [0.5, 0.4, 0.8]]),
    "left-handed": cell(_GENERIC.lattice[0][[1, 0, 2]], _GENERIC.frac_coords),
    "unwrapped": cell(_GENERIC.lattice[0], _GENERIC.frac_coords * 40 - 17),
    "coinciding sites": cell(3.1 * np.eye(3), [[0.25, 0.5, 0.5], [0.25, 0.5, 0.5], [1.25, 0.5, 0]]),
    "ragged batch": batch(_GENERIC, NO_SITE, FCC, CUBIC, NO_SITE),
    "no sites": batch(NO_SITE, NO_SITE),
    "no crystals": Cells(torch.zeros(0, 3), torch.zeros(0, 3, 3), torch.zeros(1).long()).to(
        "cpu", torch.float64
    ),
}


@st.composite
def cells(draw, max_sites: int = 4) -> Cells:
    """Skewed, tiny, elongated, left-handed cells with coordinates anywhere."""
    lengths = draw(st.lists(st.floats(0.8, 9.0), min_size=3, max_size=3))
    shears = draw(st.lists(st.floats(-2.5, 2.5), min_size=3, max_size=3))
    lattice = np.diag(lengths)
    lattice[1, 0] = shears[0] * lengths[0]
    lattice[2, 0] = shears[1] * lengths[0]
    lattice[2, 1] = shears[2] * lengths[1]
    rows = draw(st.permutations([0, 1, 2]))
    columns = draw(st.permutations([0, 1, 2]))
    site = st.tuples(*[st.floats(-3.0, 3.0, width=32)] * 3)
    frac = draw(st.lists(site, min_size=1, max_size=max_sites))
    return cell(lattice[rows][:, columns], frac)


def edge_counts(neighbors: NeighborList) -> Counter[tuple[int, ...]]:
    """How often each (src, dst, shift) is listed."""
    return Counter(map(tuple, edge_rows(neighbors).tolist()))


def edge_rows(neighbors: NeighborList) -> Tensor:
    """(src, dst, shift) of each edge, (E, 5)."""
    return torch.cat(
        [neighbors.src[:, None], neighbors.dst[:, None], neighbors.shift.to(torch.int64)], dim=1
    )
