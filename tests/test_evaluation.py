"""Criteria of finished candidates, judged on what the files hold."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from analytic import AnalyticPredictor
from smoacs.chemistry import oxidation_table
from smoacs.cif import read_cif, write_cif
from smoacs.comparison import first_of_kind, share_of_novel
from smoacs.crystals import CrystalBatch
from smoacs.evaluation import (
    Judge,
    as_written,
    evaluate_structures,
    geometry_ok,
    min_distances,
    pattern_weights,
    summarise,
)
from smoacs.objectives import Custom, Minimize, ToleranceFactor, Window
from smoacs.predictors.assessment import Assessment
from smoacs.predictors.base import Graph
from smoacs.templates import DesignSpace, from_structure, perovskite

IDEAL = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
CUBIC = Lattice.cubic(6.2)


def crystal(species="Cs Pb I I I", lattice=CUBIC, shift=0.0) -> Structure:
    return Structure(lattice, species.split(), np.array(IDEAL) + shift)


def salt() -> Structure:
    return Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def space(n: int = 1, template=None) -> DesignSpace:
    return DesignSpace.create([template or perovskite()], n)


def judge(**changes) -> Judge:
    objectives = [
        Window("band_gap", 2.5, 0.2),
        Minimize("formation_energy", below=-0.5),
        ToleranceFactor(),
    ]
    return replace(Judge(objectives, [AnalyticPredictor()], oxidation_table()), **changes)


def batch(*structures: Structure) -> CrystalBatch:
    return CrystalBatch.from_structures(structures, dtype=torch.float64)


def evaluate(*structures: Structure, judge_=None):
    n = len(structures)
    return evaluate_structures(structures, range(n), space(n), judge_ or judge())


# --- Files ---------------------------------------------------------------------------------------


def test_as_written_is_what_a_reader_of_the_file_gets(tmp_path) -> None:
    """Faults 1 and 2: coordinates were wrapped and rounded after the last evaluation."""
    soft = batch(crystal("Cs Pb I Br Cl"), crystal("Ba Ti O O O", Lattice.cubic(4.0)))
    coords = soft.frac_coords.clone()
    coords[0] = torch.tensor([-2.5e-5, 1.1, -0.2])
    coords[2] = torch.tensor([0.33336, 0.66661, 0.0])
    soft = replace(soft, frac_coords=coords)
    for structure, before in zip(as_written(soft), soft.to_structures(), strict=True):
        file = tmp_path / f"{before.formula}.cif"
        file.write_text(write_cif(before))
        read = Structure.from_file(file)
        assert [s.specie for s in structure] == [s.specie for s in before]  # the template's order
        assert sorted(s.frac_coords.tolist() for s in structure) == sorted(
            s.frac_coords.tolist() for s in read
        )
        assert structure.lattice == read.lattice
    assert as_written(soft)[0][2].frac_coords[0] == pytest.approx(1 / 3, abs=1e-12)


def test_results_describe_the_files_not_the_optimiser() -> None:
    soft = batch(crystal())
    coords = soft.frac_coords.clone()
    coords[1] = torch.tensor([0.33336, 0.5, 0.5])
    [structure] = as_written(replace(soft, frac_coords=coords))
    x = Custom("x", lambda d: d.crystals.frac_coords[1::5, 0].double())
    table = evaluate(structure, judge_=judge(objectives=[x]))
    assert table["x"][0] == pytest.approx(1 / 3, abs=1e-7)


def test_read_cif_keeps_the_order_of_many_sites() -> None:
    rng = np.random.default_rng(0)
    species = rng.choice(["Cs", "Pb", "I", "Br", "In"], 135).tolist()
    lattice = Lattice.from_parameters(18, 19, 20, 88, 90, 92)
    written = Structure(lattice, species, rng.random((135, 3)))
    read = read_cif(write_cif(written))
    assert [s.specie for s in read] == [s.specie for s in written]
    assert np.abs(read.frac_coords - written.frac_coords).max() < 1e-4


def test_read_cif_refuses_foreign_labels() -> None:
    text = write_cif(crystal()).replace("Pb1", "Pb7")
    with pytest.raises(ValueError, match="not numbered from 0 to n - 1"):
        read_cif(text)


def test_coinciding_sites_fail_the_geometry_only_there() -> None:
    broken = crystal()
    broken.replace(3, "I", broken[2].frac_coords)
    structures = as_written(batch(broken, crystal()))
    assert len(structures[0]) == 5
    table = evaluate(*structures)
    assert table["geometry_ok"].tolist() == [False, True]
    assert table["min_distance"].tolist() == [0.0, pytest.approx(3.1)]


# --- Criteria ------------------------------------------------------------------------------------


def test_columns_are_those_of_the_design() -> None:
    table = evaluate(crystal(), crystal("Na Mg F F F", Lattice.cubic(4)))
    expected = """candidate success formula n_sites template band_gap formation_energy band_gap_ok
        formation_energy_ok tolerance_factor tolerance_factor_ok neutral oxidation_states
        geometry_ok min_distance a b c alpha beta gamma unique"""
    assert " ".join(table.columns) == " ".join(expected.split())
    assert table["formula"].tolist() == ["CsPbI3", "NaMgF3"]
    assert table["oxidation_states"].tolist() == ["Cs+1 Pb+2 I-1", "Na+1 Mg+2 F-1"]
    assert table[["a", "b", "c"]].iloc[1].tolist() == pytest.approx([4, 4, 4])


def test_values_are_those_of_the_predictor_and_all_are_reported() -> None:
    structure = crystal()
    table = evaluate(structure, judge_=judge(objectives=[Window("band_gap", 2.5, 0.2)]))
    crystals = batch(structure).to(dtype=torch.float32)
    predictor = AnalyticPredictor()
    expected = predictor.predict(crystals, Graph.build(crystals, predictor.graph))
    for name in ("band_gap", "formation_energy"):
        assert table[name][0] == pytest.approx(float(expected[name]), abs=1e-6)
    assert "formation_energy_ok" not in table


def test_tolerance_factor_is_goldschmidts() -> None:
    radii = {"Cs": 1.81, "Pb": 1.33, "I": 2.06}  # pymatgen's, for +1, +2, -1
    expected = (radii["Cs"] + radii["I"]) / (2**0.5 * (radii["Pb"] + radii["I"]))
    assert evaluate(crystal())["tolerance_factor"][0] == pytest.approx(expected, abs=1e-6)


def test_neutrality_does_not_rest_on_the_construction() -> None:
    table = evaluate(crystal(), crystal("Cs Cs I I I"), crystal("Ba Ti O O O"))
    assert table["neutral"].tolist() == [True, False, True]
    assert table["oxidation_states"][1] == ""
    assert not table["success"][1]


def test_neutrality_of_135_atoms() -> None:
    """Fault 10: neutrality was left out for large cells."""
    large = crystal()
    large.make_supercell(3)
    template = DesignSpace.create([perovskite((3, 3, 3))], 1)
    good = evaluate_structures([large], [0], template, judge())
    large.replace(0, "Ba")
    bad = evaluate_structures([large], [0], template, judge())
    assert good["neutral"].tolist() == [True]
    assert bad["neutral"].tolist() == [False]


def test_elements_of_no_pattern_have_no_tolerance_factor() -> None:
    foreign = crystal("I I Cs Cs Cs")
    weights = pattern_weights(batch(crystal(), foreign, crystal("Ba Ti O O O")), space(3))
    assert weights.tolist() == [[1, 0], [0, 0], [0, 1]]
    table = evaluate(foreign)
    assert np.isnan(table["tolerance_factor"][0])
    assert not table["tolerance_factor_ok"][0]


@pytest.mark.parametrize(
    ("site", "displacement", "expected"),
    [
        (0, [0.1499, 0, 0], True),
        (0, [-0.1499, 0, 0], True),  # wraps to 0.85
        (0, [0.1502, 0, 0], False),
        (3, [0, 0.149, -0.149], True),
        (3, [0, 0, 0.2], False),
        (1, [1.0, -2.0, 0], True),  # modulo 1
    ],
)
def test_perovskite_coordinates(site: int, displacement: list[float], expected: bool) -> None:
    coords = np.array(IDEAL)
    coords[site] += displacement
    moved = Structure(CUBIC, ["Cs", "Pb", "I", "I", "I"], coords)
    assert geometry_ok(batch(moved), space()).tolist() == [expected]


@pytest.mark.parametrize(("angle", "expected"), [(85.1, True), (94.9, True), (84.9, False)])
def test_perovskite_angles(angle: float, expected: bool) -> None:
    bent = crystal(lattice=Lattice.from_parameters(6, 6, 6, 90, angle, 90))
    assert geometry_ok(batch(bent), space()).tolist() == [expected]


def test_supercell_limits_scale_with_the_cell() -> None:
    large = crystal()
    large.make_supercell(3, in_place=True)
    template = perovskite((3, 3, 3))
    order = [
        int(np.argmin(np.linalg.norm((large.frac_coords - f + 0.5) % 1 - 0.5, axis=1)))
        for f in template.frac_coords
    ]
    large = Structure.from_sites([large[i] for i in order])
    for step, expected in ((0.0499, True), (0.051, False)):
        moved = large.copy()
        moved.translate_sites([7], [0, step, 0])
        assert geometry_ok(batch(moved), space(template=template)).tolist() == [expected]


def test_free_templates_only_limit_distances() -> None:
    template = from_structure(salt(), "salt")
    moved = salt().perturb(0.3)
    assert geometry_ok(batch(moved), space(template=template)).tolist() == [True]


def test_min_distance_against_pymatgen() -> None:
    rng = np.random.default_rng(1)
    skewed = Lattice.from_parameters(3, 4, 5, 70, 80, 110)
    structures = [Structure(skewed, ["Na"] * n, rng.random((n, 3))) for n in (1, 2, 3, 5)]
    expected = [min(n.nn_distance for i in s.get_all_neighbors(4) for n in i) for s in structures]
    wide = Structure(Lattice.orthorhombic(30, 35, 40), ["Na"], [[0, 0, 0]])
    assert min_distances(batch(*structures, wide)).tolist() == pytest.approx([*expected, 30.0])


def test_a_collapsed_cell_fails_alone() -> None:
    flat = crystal(lattice=Lattice.from_parameters(6, 6, 0.01, 90, 90, 90))
    table = evaluate(flat, crystal())
    assert np.isnan(table["band_gap"][0])
    assert np.isnan(table["min_distance"][0])
    assert not table.loc[0, ["band_gap_ok", "geometry_ok", "success"]].any()
    alone = evaluate(crystal())
    columns = ["band_gap", "formation_energy", "tolerance_factor", "min_distance"]
    assert table.loc[1, columns].tolist() == alone.loc[0, columns].tolist()


class SelfCritic(AnalyticPredictor):
    """Expects errors of a tenth and knows no cell beyond 6 Å."""

    def assess(self, crystals: CrystalBatch, graph: Graph | None) -> Assessment:
        values = self.predict(crystals, graph)
        errors = {name: 0.1 * value.abs() for name, value in values.items()}
        return Assessment(values, errors, {"size": crystals.volume > 6.0**3})


def test_expected_errors_and_the_domain_have_columns() -> None:
    flat = crystal(lattice=Lattice.from_parameters(6, 6, 0.01, 90, 90, 90))
    wide, small = crystal(), crystal(lattice=Lattice.cubic(5.5))
    table = evaluate(wide, small, flat, judge_=judge(predictors=[SelfCritic()]))
    columns = ["band_gap", "formation_energy", "band_gap_std", "formation_energy_std", "in_domain"]
    assert table.columns.tolist()[5:10] == columns
    assert table["in_domain"].tolist() == [False, True, False]
    for name in ("band_gap", "formation_energy"):
        expected = 0.1 * table[name].abs()
        np.testing.assert_allclose(table[f"{name}_std"], expected, rtol=1e-6)
    plain = evaluate(wide, small, flat)
    assert table[plain.columns].equals(plain)


def test_results_do_not_depend_on_the_batches() -> None:
    structures = [crystal(), crystal("Ba Ti O O O", Lattice.cubic(4.1)), crystal("K Mg F F Cl")]
    whole = evaluate(*structures)
    split = evaluate(*structures, judge_=judge(sites_per_batch=5))
    assert whole.equals(split)


def test_candidates_keep_their_numbers_and_templates() -> None:
    both = DesignSpace.create([perovskite(), from_structure(salt(), "salt")], 6)
    gap = judge(objectives=[Window("band_gap", 2.5, 0.2)])
    table = evaluate_structures([salt(), crystal()], [3, 4], both, gap)
    assert table["candidate"].tolist() == [3, 4]
    assert table["n_sites"].tolist() == [2, 5]
    assert table["template"].tolist() == ["salt", "perovskite"]


# --- Uniqueness and novelty ----------------------------------------------------------------------


def test_equal_compositions_are_not_yet_equal_crystals() -> None:
    """Fault 10: element multisets were compared."""
    ordered = crystal("Cs Pb I Br Br")
    moved = crystal("Cs Pb Br I Br", shift=0.2)  # the same crystal, turned and shifted
    longer = Structure(Lattice.orthorhombic(6.2, 6.2, 9.3), ["Cs", "Pb", "I", "Br", "Br"], IDEAL)
    swapped = crystal("Pb Cs I Br Br")
    assert first_of_kind([ordered, moved, longer, swapped]) == [True, False, True, True]


def test_only_successes_are_counted_as_unique() -> None:
    everything = judge(objectives=[Minimize("band_gap")])
    table = evaluate(crystal(), crystal("Cs Cs I I I"), crystal(shift=1.0), judge_=everything)
    assert table["success"].tolist() == [True, False, True]
    assert table["unique"].tolist() == [True, False, False]
    summary = summarise(table, everything)
    assert summary["n_success"] == 2
    assert summary["success_rate"] == pytest.approx(2 / 3)
    assert summary["unique_rate"] == summary["distinct_compositions"] == 0.5
    assert summary["criteria"] == {
        "band_gap": 1.0,
        "neutral": pytest.approx(2 / 3),
        "geometry": 1.0,
    }


def test_no_success_has_no_rates_of_successes() -> None:
    nothing = judge(objectives=[Minimize("band_gap", below=-1.0)])
    summary = summarise(evaluate(crystal(), judge_=nothing), nothing)
    assert summary["success_rate"] == 0.0
    assert summary["unique_rate"] is None


def test_novelty_against_a_folder_and_against_json_lines(tmp_path) -> None:
    folder = tmp_path / "known"
    folder.mkdir()
    crystal().to(str(folder / "a.cif"), fmt="cif")
    rows = tmp_path / "known.jsonl"
    record = {"species": ["Cs", "Pb", "I", "I", "I"], "frac_coords": IDEAL}
    other = {"species": ["Na", "Cl"], "frac_coords": IDEAL[:2]}
    rows.write_text(
        "\n".join(json.dumps({"lattice": [6.3] * 3 + [90] * 3, **r}) for r in (record, other))
    )
    designed = [crystal(shift=0.1), crystal("Rb Pb I I I")]
    for reference in (folder, rows):
        assert share_of_novel(designed, reference) == 0.5
        assert share_of_novel([], reference) is None
    with pytest.raises(ValueError, match="there is no structure file"):
        share_of_novel(designed, tmp_path / "nothing.jsonl")
