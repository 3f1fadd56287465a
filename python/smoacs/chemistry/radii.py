"""Ionic radii.

Shannon's crystal radii as pymatgen tabulates them by element and oxidation number, mostly for
sixfold coordination: ``Element.ionic_radii``, which is high spin and lacks ions that have no high
spin state (Ni2+, Mn4+, Cr3+), completed from the low-spin list. Crystal radii are
0.14 Å larger for cations and smaller for anions than Shannon's effective ionic radii, so sums of
a cation's and an anion's radius, and with them tolerance factors, are the same on both scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from smoacs.chemistry.elements import symbol, symbols

# Shannon gives none for Sn2+; 1.10 Å is the effective radius in use for halide perovskites, where
# that of Pb2+ is 1.19 Å.
_SUPPLEMENT = {(50, 2): 1.10 + 0.14}


@cache
def ionic_radius(z: int, state: int) -> float | None:
    """Ionic radius in Å of an element at an oxidation number; None where there is none.

    Raises
    ------
    ValueError
        If z is not in 1..98.
    """
    from pymatgen.core.periodic_table import Element

    element = Element(symbol(z))
    low_spin = element.data.get("Ionic radii ls") or {}
    radius = element.ionic_radii.get(state, low_spin.get(str(state), _SUPPLEMENT.get((z, state))))
    return None if radius is None else float(radius)


def radius_table(states: Sequence[int]) -> NDArray[np.float64]:
    """Ionic radii of all elements at some oxidation numbers.

    Parameters
    ----------
    states : sequence of int, length n
        Oxidation numbers.

    Returns
    -------
    ndarray (n, 98), float64
        Radii in Å, nan where there is none; column z - 1 is atomic number z.
    """
    rows = [[ionic_radius(z, state) for z in range(1, len(symbols) + 1)] for state in states]
    return np.array(rows, dtype=np.float64).reshape(len(states), len(symbols))


@cache
def site_radius(z: int, state: int) -> float:
    """Radius in Å for any element at any oxidation number, for starting geometries.

    The ionic radius if there is one, else that of the closest oxidation number of the same sign
    (the smaller of two), else the atomic radius, else the van der Waals radius (noble gases and a
    few heavy elements), all from pymatgen.

    Raises
    ------
    ValueError
        If z is not in 1..98.
    """
    from pymatgen.core.periodic_table import Element

    radius = ionic_radius(z, state)
    if radius is not None:
        return radius
    element = Element(symbol(z))
    ions = [ion for ion in element.ionic_radii if ion * state > 0]
    if ions:
        return float(element.ionic_radii[min(ions, key=lambda ion: (abs(ion - state), abs(ion)))])
    data = element.data
    return float(data.get("Atomic radius") or data["Van der waals radius"])
