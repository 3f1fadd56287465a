"""Templates: neutrality of every pattern, limits, restriction, and sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from smoacs.chemistry import ionic_radius, oxidation_table, parse_elements
from smoacs.templates import DesignSpace, aflow, from_folder, from_structure, perovskite


def rocksalt() -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3]
    )


def test_perovskite_sites_are_those_of_a_cubic_perovskite() -> None:
    template = perovskite()
    symbols = [{"A": "Sr", "B": "Ti", "X": "O"}[role] for role in template.roles]
    structure = Structure(Lattice.cubic(3.905), symbols, template.frac_coords)
    assert structure.get_space_group_info() == ("Pm-3m", 221)


def test_perovskite_masks_follow_table_and_radii() -> None:
    template = perovskite()
    table = oxidation_table("smoacs")
    for (site, pattern), state in np.ndenumerate(template.oxidation_states.T):
        for z in range(1, 99):
            expected = table.allows(z, int(state)) and ionic_radius(z, int(state)) is not None
            assert template.allowed[site, pattern, z - 1] == expected


@pytest.mark.parametrize("supercell", [(1, 1, 1), (2, 1, 1), (3, 3, 3)])
def test_supercells_repeat_the_perovskite(supercell: tuple[int, int, int]) -> None:
    cell = perovskite(supercell)
    repeats = int(np.prod(supercell))
    assert cell.n_sites == 5 * repeats
    assert [cell.roles.count(role) for role in "ABX"] == [repeats, repeats, 3 * repeats]
    one = perovskite()
    symbols = {"A": "Sr", "B": "Ti", "X": "O"}
    single = Structure(Lattice.cubic(4), [symbols[r] for r in one.roles], one.frac_coords)
    single.make_supercell(supercell)
    built = Structure(
        Lattice.orthorhombic(*(4 * np.array(supercell))),
        [symbols[r] for r in cell.roles],
        cell.frac_coords,
    )
    assert built.matches(single, attempt_supercell=False, primitive_cell=False)
    assert np.allclose(cell.coord_limit * supercell, 0.15)


def test_bad_supercell_is_refused() -> None:
    with pytest.raises(ValueError, match="three positive integers"):
        perovskite((0, 1, 1))


def test_restriction_drops_patterns_without_elements() -> None:
    halides = perovskite().restrict(parse_elements("Cs,Rb,Sn,Pb,I,Br"))
    assert halides.oxidation_states.tolist() == [[1, 2, -1, -1, -1]]
    assert {z + 1 for z in np.flatnonzero(halides.allowed[0, 0])} == {37, 55}


def test_impossible_restriction_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"no charge-neutral choice from Na, Cl: B site needs"):
        perovskite().restrict(parse_elements("Na,Cl"))


def test_structure_becomes_template_of_its_own_charges() -> None:
    template = from_structure(rocksalt(), "rocksalt")
    assert template.n_sites == 8
    assert template.oxidation_states.tolist() == [[1] * 4 + [-1] * 4]
    assert len(template.rotations) == 48


def test_elemental_and_disordered_structures_make_no_template() -> None:
    copper = Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    with pytest.raises(ValueError, match="no charge-neutral combination"):
        from_structure(copper, "copper")
    mixed = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0] * 3, [0.5] * 3])
    with pytest.raises(ValueError, match="partly occupied"):
        from_structure(mixed, "mixed")


def test_aflow_prototypes_are_neutral_and_named_once() -> None:
    templates = aflow(max_sites=8)
    assert len(templates) > 40
    for template in templates:
        assert template.n_sites <= 8
        assert not template.oxidation_states.sum(axis=1).any()
        assert 48 % len(template.rotations) == 0


def test_folder_of_structures(tmp_path) -> None:
    rocksalt().to(filename=str(tmp_path / "salt.cif"))
    Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]]).to(filename=str(tmp_path / "copper.cif"))
    with pytest.warns(UserWarning, match="copper"):
        templates = from_folder(tmp_path)
    assert [t.name for t in templates] == ["salt"]
    with pytest.raises(ValueError, match="no template folder"):
        from_folder(tmp_path / "nowhere")


def test_space_of_different_templates_is_ragged() -> None:
    small, large = perovskite(), from_structure(rocksalt(), "salt")
    space = DesignSpace.create([small, large], 5)
    assert space.ptr.tolist() == [0, 5, 13, 18, 26, 31]
    assert space.pattern_exists.tolist() == [[True, True], [True, False]] * 2 + [[True, True]]
    pattern = torch.zeros(5, dtype=torch.int64)
    allowed = space.allowed_under(pattern)
    assert torch.equal(allowed[5:13].cpu(), torch.from_numpy(large.allowed[:, 0]))
    chosen = space.select(torch.tensor([3, 0]))
    assert chosen.ptr.tolist() == [0, 8, 13]
    assert torch.equal(chosen.frac_coords[:8], space.frac_coords[18:26])


def test_role_mean_needs_the_role() -> None:
    space = DesignSpace.create([from_structure(rocksalt(), "salt")], 1)
    with pytest.raises(ValueError, match="template salt has no A sites"):
        space.role_mean(torch.ones(8), "A")
