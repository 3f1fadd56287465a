"""What a template is: a cell to start from, its limits, and what each site may hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smoacs.chemistry import OxidationTable, site_radius, symbol
from smoacs.crystals import N_ELEMENTS

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Template:
    """A family of crystals: n sites, K oxidation patterns, one crystal family.

    Attributes
    ----------
    name : str
        Name shown in results.
    lengths, angles : ndarray (3,)
        The template's own cell, Å and degrees.
    frac_coords : ndarray (n, 3)
        Ideal fractional coordinates.
    length_bounds : ndarray (2, 3)
        Lower and upper limits of a, b, c in Å.
    angle_bounds : ndarray (2, 3)
        Lower and upper limits of the angles in degrees; equal limits fix an angle.
    coord_limit : ndarray (3,)
        Largest displacement of a fractional coordinate from the ideal one; inf: free.
    rotations : ndarray (G, 3, 3), int
        Point group of the lattice in the basis of the cell (column convention, ``f' = W f``).
        The lattice metric is kept invariant under it, which preserves the crystal family.
    oxidation_states : ndarray (K, n), int
        Oxidation number of each site in each pattern; every row sums to zero.
    allowed : ndarray (n, K, 98), bool
        Elements a site may hold under a pattern.
    roles : tuple of str, length n
        Role of each site, e.g. ``"A"``, ``"B"``, ``"X"``; sites of equal role are averaged by
        objectives that need roles.
    """

    name: str
    lengths: NDArray[np.float64]
    angles: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    length_bounds: NDArray[np.float64]
    angle_bounds: NDArray[np.float64]
    coord_limit: NDArray[np.float64]
    rotations: NDArray[np.int64]
    oxidation_states: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    roles: tuple[str, ...]

    def __post_init__(self) -> None:
        n_patterns, n_sites = self.oxidation_states.shape
        if self.allowed.shape != (n_sites, n_patterns, N_ELEMENTS):
            raise ValueError(
                f"template {self.name}: allowed has shape {self.allowed.shape}, "
                f"expected {(n_sites, n_patterns, N_ELEMENTS)}"
            )
        if n_patterns == 0:
            raise ValueError(f"template {self.name} has no oxidation pattern")
        charges = self.oxidation_states.sum(axis=1)
        if charges.any():
            raise ValueError(
                f"template {self.name}: pattern {int(charges.nonzero()[0][0])} has charge "
                f"{int(charges[charges.nonzero()[0][0]]):+d}; every pattern must be neutral"
            )

    @property
    def n_sites(self) -> int:
        """Number of sites of the cell."""
        return len(self.roles)

    @cached_property
    def site_radii(self) -> NDArray[np.float64]:
        """Ionic radius in Å of every element under every pattern, (n, K, 98); 0: not allowed."""
        radii = np.zeros(self.allowed.shape)
        for site, pattern, column in np.argwhere(self.allowed):
            state = int(self.oxidation_states[pattern, site])
            radii[site, pattern, column] = site_radius(int(column) + 1, state)
        return radii

    def restrict(self, elements: Iterable[int]) -> Template:
        """The same template with fewer elements.

        Patterns that leave a site without any element are dropped.

        Parameters
        ----------
        elements : iterable of int
            Atomic numbers that may be used.

        Raises
        ------
        ValueError
            If no pattern remains.
        """
        keep = np.zeros(N_ELEMENTS, dtype=bool)
        chosen = sorted(elements)
        keep[[z - 1 for z in chosen]] = True
        allowed = self.allowed & keep
        patterns = allowed.any(axis=2).all(axis=0)
        if not patterns.any():
            names = ", ".join(symbol(z) for z in chosen[:12]) + (
                ", ..." if len(chosen) > 12 else ""
            )
            raise ValueError(
                f"template {self.name} has no charge-neutral choice from {names or 'no element'}: "
                f"{self._first_gap(allowed)}"
            )
        return replace(
            self,
            allowed=allowed[:, patterns],
            oxidation_states=self.oxidation_states[patterns],
        )

    def _first_gap(self, allowed: NDArray[np.bool_]) -> str:
        """What is missing, said for the pattern that comes closest."""
        empty = np.logical_not(allowed.any(axis=2))  # (n, K)
        pattern = int(empty.sum(axis=0).argmin())
        needs = sorted(
            {
                f"{self.roles[site]} site needs an element with oxidation number "
                f"{self.oxidation_states[pattern, site]:+d}"
                for site in np.flatnonzero(empty[:, pattern])
            }
        )
        return "; ".join(needs)


def masks(
    oxidation_states: NDArray[np.int64],
    table: OxidationTable,
    extra: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Elements allowed per site and pattern, M of eq. 4.

    Parameters
    ----------
    oxidation_states : ndarray (K, n), int
        Patterns.
    table : OxidationTable
        Oxidation numbers of the elements.
    extra : ndarray (K, n, 98), bool, optional
        Further condition.

    Returns
    -------
    ndarray (n, K, 98), bool
    """
    allowed = np.stack([[table.mask(int(state)) for state in row] for row in oxidation_states])
    if extra is not None:
        allowed &= extra
    return allowed.transpose(1, 0, 2)


def point_group(structure: Structure) -> NDArray[np.int64]:
    """Rotations of a crystal's space group in the basis of its cell, (G, 3, 3) int (spglib)."""
    import spglib

    cell = (
        structure.lattice.matrix.tolist(),
        structure.frac_coords.tolist(),
        list(structure.atomic_numbers),
    )
    symmetry = spglib.get_symmetry(cell, symprec=0.01)
    if symmetry is None:  # spglib gives up on atoms that nearly coincide
        return np.eye(3, dtype=np.int64)[None]
    return np.unique(symmetry["rotations"].astype(np.int64), axis=0)
