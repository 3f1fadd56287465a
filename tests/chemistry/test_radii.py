from __future__ import annotations

import numpy as np
import pytest
from ase.data import chemical_symbols
from pymatgen.core.periodic_table import Element

from smoacs.chemistry import (
    atomic_number,
    ionic_radius,
    oxidation_table,
    radius_table,
    site_radius,
)


@pytest.mark.parametrize(
    ("symbol", "state", "radius"),
    [
        ("O", -2, 1.26),
        ("F", -1, 1.19),
        ("Cs", 1, 1.81),
        ("O", -1, None),
        ("Fe", 2, 0.92),  # high spin
        ("Ni", 2, 0.83),  # has no high-spin state
        ("Mn", 4, 0.67),
        ("Sn", 2, pytest.approx(1.24)),  # not Shannon's
        ("Sn", 3, None),
    ],
)
def test_ionic_radius(symbol, state, radius):
    assert ionic_radius(atomic_number(symbol), state) == radius


def test_radius_table_holds_every_radius_of_pymatgen_and_one_more():
    states = list(range(-4, 9))
    table = radius_table(states)
    assert table.shape == (13, 98)
    assert table.dtype == np.float64
    expected = np.full((13, 98), np.nan)
    for z in range(1, 99):
        element = Element(chemical_symbols[z])
        low_spin = element.data.get("Ionic radii ls") or {}
        for state, radius in low_spin.items():
            expected[states.index(int(state)), z - 1] = radius
        for state, radius in element.ionic_radii.items():
            expected[states.index(state), z - 1] = radius
    expected[states.index(2), 49] = 1.10 + 0.14
    np.testing.assert_array_equal(table, expected)


def test_radius_table_of_nothing():
    assert radius_table([]).shape == (0, 98)


def test_radii_are_shannon_crystal_radii():
    """Exceptions: ions without a sixfold radius, and Sb+5, Gd+3, Pa+3."""
    found, total = 0, 0
    for z in range(1, 99):
        shannon = Element(chemical_symbols[z]).data.get("Shannon radii") or {}
        for state, radius in Element(chemical_symbols[z]).ionic_radii.items():
            sixfold = shannon.get(str(state), {}).get("VI", {})
            total += 1
            found += any(float(radius) == spin["crystal_radius"] for spin in sixfold.values())
    assert found >= 0.9 * total > 150


def test_perovskite_sizes_of_the_paper():
    """The paper's 23 A, 32 B and 8 X elements over both patterns, and Ni2+, Sn2+, Mn4+ on B."""
    table = oxidation_table("smoacs")
    states = [1, 2, 4, -1, -2]
    usable = np.array([table.mask(state) for state in states]) & ~np.isnan(radius_table(states))
    assert usable.sum(axis=1).tolist() == [8, 18, 20, 4, 4]
    pairs = [(0, 1), (1, 2), (3, 4)]
    assert [int((usable[i] | usable[j]).sum()) for i, j in pairs] == [25, 33, 8]


@pytest.mark.parametrize(
    ("symbol", "state", "radius"),
    [
        ("Cs", 1, 1.81),  # tabulated
        ("Si", 2, 0.54),  # of Si+4
        ("H", 1, 0.25),  # atomic
        ("C", -4, 0.70),  # atomic: the tabulated C+4 has the other sign
        ("Xe", -1, 2.16),  # van der Waals
    ],
)
def test_site_radius(symbol, state, radius):
    assert site_radius(atomic_number(symbol), state) == pytest.approx(radius)


def test_site_radius_exists_for_everything():
    values = [site_radius(z, state) for z in range(1, 99) for state in range(-4, 9)]
    assert 0.1 < min(values) < max(values) < 4.0


def test_radii_reject_unknown_elements():
    with pytest.raises(ValueError, match="got 99"):
        ionic_radius(99, 3)
