"""Inputs of the benchmarks: batches of crystals, masks and logits, all from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from smoacs.crystals import N_ELEMENTS, CrystalBatch
from smoacs.ops import PackedMask, pack_mask
from smoacs.predictors.alignn import ALIGNN, ALIGNNConfig
from smoacs.predictors.alignn_predictor import ALIGNNPredictor
from smoacs.predictors.base import GraphSpec, Property

Norm = Literal["batch", "layer"]
SHORTEST, LONGEST = 3.5, 8.0  # lattice parameters in Å
DENSITY = 0.085  # atoms per Å^3 of the disordered cells
BAND_GAP = Property("band_gap", "eV", -np.inf, np.inf)
FORMATION_ENERGY = Property("formation_energy", "eV/atom", -np.inf, np.inf)
IDEAL = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


@dataclass(frozen=True)
class Cells:
    """C crystals with S sites, in double precision, and the radius to search in.

    Attributes
    ----------
    frac_coords : Tensor (S, 3)
    lattice : Tensor (C, 3, 3)
    ptr : Tensor (C + 1,), int64
    cutoff : float
        Å.
    """

    frac_coords: Tensor
    lattice: Tensor
    ptr: Tensor
    cutoff: float

    def __len__(self) -> int:
        return len(self.lattice)

    @property
    def n_sites(self) -> int:
        """S."""
        return len(self.frac_coords)

    def to(self, device: str, dtype: torch.dtype = torch.float64) -> Cells:
        """Copy to a device and floating-point type."""
        return replace(
            self,
            frac_coords=self.frac_coords.to(device, dtype),
            lattice=self.lattice.to(device, dtype),
            ptr=self.ptr.to(device),
        )

    def positions(self) -> Tensor:
        """Cartesian coordinates (S, 3) in Å."""
        return torch.einsum("si,sij->sj", self.frac_coords, self.lattice[self._owner()])

    def crystals(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Cartesian coordinates and lattice of each crystal."""
        positions = self.positions()
        for c, (start, stop) in enumerate(pairwise(self.ptr.tolist())):
            yield positions[start:stop], self.lattice[c]

    def batch(self) -> CrystalBatch:
        """The crystals in single precision, with a random element mixture on every site."""
        generator = torch.Generator().manual_seed(0)
        composition = torch.rand(self.n_sites, N_ELEMENTS, generator=generator).softmax(1)
        return CrystalBatch(
            self.lattice.float(),
            self.frac_coords.float(),
            composition.to(self.ptr.device),
            self.ptr,
        )

    def _owner(self) -> Tensor:
        crystals = torch.arange(len(self), device=self.ptr.device)
        return torch.repeat_interleave(crystals, self.ptr.diff())


def perovskites(n: int, cutoff: float = 8.0) -> Cells:
    """Distorted perovskite cells of five atoms."""
    rng = np.random.default_rng(0)
    lattice = np.stack([np.diag(row) for row in rng.uniform(SHORTEST, LONGEST, (n, 3))])
    return _cells(IDEAL + rng.uniform(-0.03, 0.03, (n, 5, 3)), lattice, cutoff)


def supercells(n: int, cutoff: float = 8.0) -> Cells:
    """Distorted 3 x 3 x 3 perovskite cells of 135 atoms."""
    small = perovskites(n)
    steps = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    frac = (small.frac_coords.numpy().reshape(n, 1, 5, 3) + steps).reshape(n, 135, 3) / 3
    noise = np.random.default_rng(1).uniform(-0.01, 0.01, frac.shape)
    return _cells(frac + noise, 3 * small.lattice.numpy(), cutoff)


def disordered(n_sites: int, cutoff: float = 5.0) -> Cells:
    """One cubic cell of atoms at random places."""
    length = (n_sites / DENSITY) ** (1 / 3)
    frac = np.random.default_rng(0).random((1, n_sites, 3))
    return _cells(frac, length * np.eye(3)[None], cutoff)


def _cells(frac: np.ndarray, lattice: np.ndarray, cutoff: float) -> Cells:
    n, n_sites = frac.shape[:2]
    ptr = torch.arange(n + 1) * n_sites
    coords = torch.from_numpy(frac.reshape(-1, 3).copy())
    return Cells(coords, torch.from_numpy(lattice.copy()), ptr, cutoff)


ANCHORS: dict[str, Callable[[], Cells]] = {
    "W1: 256 x 5 atoms": lambda: perovskites(256),
    "W2: 32 x 135 atoms": lambda: supercells(32),
    "W3: 10,000 atoms": lambda: disordered(10_000),
}
GROWTH: dict[str, Callable[[], Cells]] = {
    "1 x 5 atoms": lambda: perovskites(1),
    "32 x 5 atoms": lambda: perovskites(32),
    "4,096 x 5 atoms": lambda: perovskites(4096),
    "100,000 atoms": lambda: disordered(100_000),
}


@dataclass(frozen=True)
class Softmax:
    """Arguments of the masked softmax: C crystals, S sites, K patterns, Z elements.

    Attributes
    ----------
    element_logits : Tensor (S, Z)
    pattern_logits : Tensor (C, K)
    allowed : Tensor (S, K, Z), bool
    packed : PackedMask
        The same mask.
    ptr : Tensor (C + 1,), int64
    temperature : float
    """

    element_logits: Tensor
    pattern_logits: Tensor
    allowed: Tensor
    packed: PackedMask
    ptr: Tensor
    temperature: float = 0.01

    @property
    def n_bytes(self) -> int:
        """Fewest bytes of one forward and one backward pass.

        Forward reads logits and mask and writes compositions; backward reads logits, mask and
        the gradient of the compositions and writes the gradient of the logits.
        """
        sites = 5 * self.element_logits.nbytes + 2 * self.packed.words.nbytes
        return sites + 6 * self.pattern_logits.nbytes + 2 * self.ptr.nbytes


def softmax(
    n_sites: int, n_patterns: int, sites_per_crystal: int, device: str, share: float = 0.3
) -> Softmax:
    """Random logits, and masks that allow each element with a probability of ``share``."""
    generator = torch.Generator(device).manual_seed(0)
    crystals = n_sites // sites_per_crystal
    shape = (n_sites, n_patterns, N_ELEMENTS)
    allowed = torch.rand(shape, generator=generator, device=device) < share
    allowed[..., 0] |= ~allowed.any(-1)
    return Softmax(
        0.01 * torch.randn(n_sites, N_ELEMENTS, generator=generator, device=device),
        0.01 * torch.randn(crystals, n_patterns, generator=generator, device=device),
        allowed,
        pack_mask(allowed),
        torch.arange(crystals + 1, device=device) * sites_per_crystal,
    )


def full_size_alignn(norm: Norm = "batch", prop: Property = BAND_GAP) -> ALIGNNPredictor:
    """An ALIGNN of the published size, with random weights.

    Parameters
    ----------
    norm : {"batch", "layer"}
        Normalisation of the first generation or of version 2.0.
    prop : Property
    """
    torch.manual_seed(0)
    return ALIGNNPredictor(
        f"random weights, {prop.name}",
        ALIGNN(ALIGNNConfig(norm=norm)),
        properties=[prop],
        graph=GraphSpec(8.0, 12, "knn_shell", tie_tolerance=0.0, line_graph=True),
        elements=frozenset(range(1, N_ELEMENTS + 1)),
        minima={},
    )
