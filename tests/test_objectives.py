"""Objectives: values of known crystals, losses, refusals."""

from __future__ import annotations

import pytest
import torch
from pymatgen.core import Lattice, Structure

from smoacs.crystals import CrystalBatch
from smoacs.objectives import (
    Design,
    IonicContacts,
    Maximize,
    Minimize,
    Objective,
    ToleranceFactor,
    Window,
)
from smoacs.templates import DesignSpace, perovskite

ROLES = {"A": "Sr", "B": "Ti", "X": "O"}


def strontium_titanate(*lattices: float, shift: float = 0.0) -> Design:
    """Cubic SrTiO3 with given lattice constants; coordinates may be moved to other cells."""
    template = perovskite()
    symbols = [ROLES[role] for role in template.roles]
    coords = template.frac_coords + shift
    structures = [Structure(Lattice.cubic(a), symbols, coords) for a in lattices]
    space = DesignSpace.create([template], len(lattices), dtype=torch.float64)
    crystals = CrystalBatch.from_structures(structures, dtype=torch.float64)
    weights = torch.tensor([[0.0, 1.0]] * len(lattices), dtype=torch.float64)
    return Design(crystals, weights, space, {"band_gap": torch.arange(float(len(lattices)))})


def test_tolerance_factor_of_strontium_titanate() -> None:
    value = ToleranceFactor().value(strontium_titanate(3.9))
    assert value.tolist() == pytest.approx([(1.32 + 1.26) / (2**0.5 * (0.745 + 1.26))])


@pytest.mark.parametrize("shift", [0.0, 0.3, -7.6])
def test_contact_ratio_is_that_of_the_worst_site(shift: float) -> None:
    values = IonicContacts().value(strontium_titanate(3.0, 3.905, 5.5, shift=shift))
    b_x = [a / 2 / (0.745 + 1.26) for a in (3.0, 3.905, 5.5)]
    a_x = [a / 2**0.5 / (1.32 + 1.26) for a in (3.0, 3.905, 5.5)]
    assert values.tolist() == pytest.approx([b_x[0], a_x[1], a_x[2]])
    assert IonicContacts().satisfied(values).tolist() == [False, True, False]


def test_contact_ratio_has_the_gradient_of_its_worst_site() -> None:
    design = strontium_titanate(5.5)
    design.crystals.lattice.requires_grad_()
    value = IonicContacts().value(design)
    (gradient,) = torch.autograd.grad(value.sum(), design.crystals.lattice)
    # The A-X distance scales with the cell: derivative along a uniform strain is the ratio.
    along = (gradient * design.crystals.lattice).sum().detach()
    assert float(along) == pytest.approx(float(value.detach()))


def test_ion_out_of_reach_is_nan_and_fails() -> None:
    value = IonicContacts().value(strontium_titanate(4.0, 30.0))
    assert torch.isfinite(value).tolist() == [True, False]
    assert IonicContacts().satisfied(value).tolist() == [True, False]


def test_losses_stop_where_enough_is_reached() -> None:
    values = torch.tensor([-2.0, -0.6, 0.1])
    assert Minimize("e", below=-0.5).loss(values).tolist() == pytest.approx([-0.7, -0.6, 0.1])
    assert Minimize("e").loss(values).tolist() == values.tolist()
    assert Maximize("t", above=0.0, strength=2).loss(values).tolist() == pytest.approx([4, 1.2, 0])
    window = Window("g", 1.0, 0.5)
    assert window.loss(torch.tensor([1.05, 2.0])).tolist() == pytest.approx([0, 0.9])


def test_nan_never_succeeds() -> None:
    nan = torch.tensor([float("nan")])
    objectives = [Window("g", 1.0, 0.5), Minimize("g"), Maximize("g"), ToleranceFactor()]
    for objective in [*objectives, IonicContacts()]:
        assert isinstance(objective, Objective)
        assert not objective.satisfied(nan).any()


def test_objectives_reject_bad_arguments() -> None:
    with pytest.raises(ValueError, match="margin of band_gap must be positive"):
        Window("band_gap", 1.0, 0.0)
    with pytest.raises(ValueError, match="slack"):
        Window("band_gap", 1.0, 0.2, slack=0.3)
    with pytest.raises(ValueError, match="0 < low < high"):
        ToleranceFactor(1.0, 0.8)
    with pytest.raises(ValueError, match="0 < low < 1 < high"):
        IonicContacts(1.1, 1.2)
