"""Variables: lattice algebra, limits, crystal families, discrete choices."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from pymatgen.core import Lattice, Structure

from smoacs.chemistry import oxidation_table
from smoacs.start import LATTICE_STARTS, initial_variables
from smoacs.templates import DesignSpace, aflow, from_structure, perovskite
from smoacs.variables import (
    discrete_choice,
    lattice_matrix,
    project,
    soft_crystals,
)


def start(space: DesignSpace, seed: int = 0, lattice: str = "radii", spread: float = 1.0):
    ids = torch.arange(len(space))
    return initial_variables(space, seed, ids, 0, LATTICE_STARTS[lattice], spread)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.floats(2.0, 20.0)] * 3),
    st.tuples(*[st.floats(70.0, 110.0)] * 3),
)
def test_lattice_matrix_agrees_with_pymatgen(lengths, angles) -> None:
    ours = lattice_matrix(
        torch.tensor([lengths], dtype=torch.float64), torch.tensor([angles], dtype=torch.float64)
    )[0]
    peer = Lattice.from_parameters(*lengths, *angles)
    metric = ours @ ours.T
    assert np.allclose(metric.numpy(), peer.matrix @ peer.matrix.T, rtol=1e-10, atol=1e-10)


def test_impossible_angles_give_nan_not_an_error() -> None:
    lattice = lattice_matrix(torch.tensor([[4.0, 4, 4]]), torch.tensor([[150.0, 30, 30]]))
    assert torch.isnan(lattice).any()


def test_projection_keeps_limits_and_is_idempotent() -> None:
    space = DesignSpace.create([perovskite()], 6, dtype=torch.float64)
    variables = start(space)
    generator = torch.Generator().manual_seed(1)
    moved = replace(
        variables,
        lengths=variables.lengths
        * (0.1 + 4 * torch.rand(6, 3, generator=generator, dtype=torch.float64)),
        angles=variables.angles + 0.2,
        frac_coords=variables.frac_coords
        + torch.randn(30, 3, generator=generator, dtype=torch.float64),
    )
    inside = project(moved, space)
    lengths = inside.lengths_angstrom()
    assert lengths.min() >= 2 - 1e-9
    assert lengths.max() <= 10 + 1e-9
    assert torch.allclose(inside.angles_degree(), torch.full((6, 3), 90.0, dtype=torch.float64))
    assert (inside.frac_coords - space.frac_coords).abs().max() <= 0.15 + 1e-12
    again = project(inside, space)
    for (_, a), (_, b) in zip(inside.items(), again.items(), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_every_prototype_keeps_its_crystal_system() -> None:
    """Random strain, projected, gives a lattice invariant under the template's rotations."""
    templates = aflow(max_sites=6)
    space = DesignSpace.create(templates, len(templates), dtype=torch.float64)
    variables = start(space, lattice="random")
    generator = torch.Generator().manual_seed(2)
    noise = 1 + 0.1 * torch.randn(len(space), 3, generator=generator, dtype=torch.float64)
    strained = project(
        replace(
            variables,
            lengths=variables.lengths * noise,
            angles=variables.angles + 0.02 * noise,
        ),
        space,
    )
    lattice = lattice_matrix(strained.lengths_angstrom(), strained.angles_degree())
    for template, matrix in zip(templates, lattice, strict=True):
        metric = matrix @ matrix.T
        for rotation in torch.from_numpy(template.rotations).double():
            assert torch.allclose(rotation.T @ metric @ rotation, metric, rtol=1e-8), template.name


def test_projection_leaves_the_template_itself_alone() -> None:
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
    ).get_primitive_structure()
    space = DesignSpace.create([from_structure(salt, "salt")], 1, dtype=torch.float64)
    variables = start(space)
    exact = replace(variables, lengths=space.lengths / variables.length_scale[:, None])
    assert torch.allclose(project(exact, space).lengths_angstrom(), space.lengths)
    assert torch.allclose(project(exact, space).angles_degree(), space.angles)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31))
def test_discrete_choice_is_neutral_and_allowed(seed: int) -> None:
    templates = [perovskite(), *aflow(max_sites=5)[:5]]
    space = DesignSpace.create(templates, 12)
    composition, weights = discrete_choice(start(space, seed), space)
    table = oxidation_table("smoacs")
    patterns = weights.argmax(1)
    assert space.pattern_exists[torch.arange(12), patterns].all()
    for c in range(12):
        sites = slice(int(space.ptr[c]), int(space.ptr[c + 1]))
        states = space.oxidation_states[sites, patterns[c]]
        assert states.sum() == 0
        for z, state in zip(composition[sites].argmax(1) + 1, states, strict=True):
            assert table.allows(int(z), int(state))


def test_soft_composition_never_leaks_to_forbidden_elements() -> None:
    """Fault 6: the paper's masking leaves half of the probability on forbidden elements."""
    space = DesignSpace.create([perovskite()], 8)
    variables = start(space, spread=0.0)
    anywhere = space.allowed[:5].any(1).repeat(8, 1)
    exact, _ = soft_crystals(variables, space, 0.01, "exact")
    assert exact.composition[~anywhere].abs().max() == 0
    paper, _ = soft_crystals(variables, space, 0.01, "paper")
    leak = (paper.composition * ~anywhere).sum(1).reshape(8, 5)[0]
    assert leak[1] == pytest.approx(0.48, abs=0.1)
    assert leak[2] == pytest.approx(0.83, abs=0.1)


def test_radii_start_gives_sensible_perovskites() -> None:
    space = DesignSpace.create([perovskite()], 200)
    lengths = start(space).lengths_angstrom()
    assert lengths.min() > 3.0
    assert lengths.max() < 7.5


def test_random_start_fills_the_limits() -> None:
    space = DesignSpace.create([perovskite()], 500)
    lengths = start(space, lattice="random").lengths_angstrom()
    assert lengths.min() < 2.1
    assert lengths.max() > 9.9
    assert lengths.mean() == pytest.approx(6.0, abs=0.2)


def test_a_candidate_does_not_depend_on_the_others() -> None:
    space = DesignSpace.create([perovskite()], 8)
    everyone = start(space)
    chosen = torch.tensor([5, 2])
    alone = initial_variables(space.select(chosen), 0, chosen, 0, LATTICE_STARTS["radii"], 1.0)
    for (_, a), (_, b) in zip(
        everyone.select(chosen, space.ptr).items(), alone.items(), strict=True
    ):
        assert torch.equal(a, b)
