"""Objectives: values of known crystals, losses, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from smoacs.chemistry import site_radius
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
from smoacs.templates.files import from_structure

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
def test_contact_strain_is_the_root_mean_square_over_the_sites(shift: float) -> None:
    constants = np.array([3.0, 3.905, 5.5])
    values = IonicContacts().value(strontium_titanate(*constants, shift=shift))
    b_x = np.log(constants / 2 / (0.745 + 1.26))
    a_x = np.log(constants / 2**0.5 / (1.32 + 1.26))
    # An anion touches whichever cation is nearer in units of the radii, here always B.
    assert values.tolist() == pytest.approx(np.sqrt((a_x**2 + 4 * b_x**2) / 5).tolist())
    assert IonicContacts().satisfied(values).tolist() == [False, True, False]


def test_contact_strain_does_not_change_with_the_supercell() -> None:
    cell, large = Lattice.cubic(3.7), perovskite(supercell=(2, 2, 1))
    symbols = [ROLES[role] for role in large.roles]
    structure = Structure(Lattice.orthorhombic(7.4, 7.4, 3.7), symbols, large.frac_coords)
    space = DesignSpace.create([large], 1, dtype=torch.float64)
    weights = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    crystals = CrystalBatch.from_structures([structure], dtype=torch.float64)
    value = IonicContacts().value(Design(crystals, weights, space, {}))
    assert value.tolist() == pytest.approx(
        IonicContacts().value(strontium_titanate(cell.a)).tolist()
    )


def test_contact_strain_pulls_at_every_site() -> None:
    design = strontium_titanate(5.5)
    design.crystals.lattice.requires_grad_()
    value = IonicContacts().value(design)
    (gradient,) = torch.autograd.grad(value.sum(), design.crystals.lattice)
    # A uniform strain e adds e to every logarithm: the slope is their mean over their rms.
    along = (gradient * design.crystals.lattice).sum().detach()
    b_x, a_x = np.log(5.5 / 2 / (0.745 + 1.26)), np.log(5.5 / 2**0.5 / (1.32 + 1.26))
    assert float(along) == pytest.approx((a_x + 4 * b_x) / 5 / float(value.detach()))


def test_perfect_contacts_have_a_finite_gradient() -> None:
    radii = site_radius(11, 1) + site_radius(17, -1)
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(2 * radii), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()
    space = DesignSpace.create([from_structure(salt, "salt")], 1, dtype=torch.float64)
    crystals = CrystalBatch.from_structures([salt], dtype=torch.float64)
    charges = torch.tensor([1 if site.specie.symbol == "Na" else -1 for site in salt])
    weights = (space.oxidation_states == charges[:, None]).all(0).double()[None]
    assert weights.sum() == 1
    crystals.lattice.requires_grad_()
    value = IonicContacts().value(Design(crystals, weights, space, {}))
    (gradient,) = torch.autograd.grad(value.sum(), crystals.lattice)
    assert float(value.detach()) == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(gradient).all()


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
    with pytest.raises(ValueError, match="limit of the contact strain must be positive"):
        IonicContacts(limit=0.0)
