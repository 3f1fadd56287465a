from __future__ import annotations

import json

import numpy as np
import pytest
from ase.eos import EquationOfState
from ase.units import GPa
from pymatgen.core import Structure

from smoacs.training.config import RandomSplit, StrainConfig, load_config
from smoacs.training.data import (
    LabelledCrystals,
    TrainingData,
    birch_murnaghan,
    concatenate,
    load_crystals,
    random_split,
    strained_copies,
)


def structure(row: dict) -> Structure:
    return Structure(row["lattice_matrix"], row["species"], row["frac_coords"])


def test_json_lines_with_missing_labels(raw_config, write_config, rows):
    crystals = load_crystals(load_config(write_config(raw_config)))
    assert crystals.ids == tuple(row["id"] for row in rows)
    assert crystals.split.tolist() == [row["split"] for row in rows]
    wanted = [[row["formation_energy"], row.get("band_gap", np.nan)] for row in rows]
    np.testing.assert_array_equal(crystals.targets, wanted)
    read = crystals.batch().to_structures()
    for row, crystal in zip(rows, read, strict=True):
        assert crystal.species == structure(row).species
        np.testing.assert_allclose(crystal.distance_matrix, structure(row).distance_matrix)


def test_folder_and_table_give_the_same_crystals(raw_config, write_config, rows, tmp_path):
    (tmp_path / "cells").mkdir()
    lines = ["file,formation_energy,band_gap,split"]
    for index, row in enumerate(rows):
        name = f"{index}.cif" if index % 2 else f"{index}.vasp"
        structure(row).to(str(tmp_path / "cells" / name), fmt="cif" if index % 2 else "poscar")
        lines.append(f"{name},{row['formation_energy']},{row.get('band_gap', '')},{row['split']}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    from_lines = load_crystals(load_config(write_config(raw_config)))
    data = {"structures": {"path": "cells", "table": "labels.csv"}}
    from_folder = load_crystals(load_config(write_config(raw_config | {"data": data})))
    np.testing.assert_allclose(from_folder.targets, from_lines.targets)
    assert from_folder.split.tolist() == from_lines.split.tolist()
    for a, b in zip(
        from_folder.batch().to_structures(), from_lines.batch().to_structures(), strict=True
    ):
        assert a.composition == b.composition
        assert a.volume == pytest.approx(b.volume, rel=1e-4)


def test_crystals_without_any_label_are_left_out(raw_config, write_config, rows, jsonl):
    del rows[0]["formation_energy"]
    rows[0].pop("band_gap", None)
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_crystals(load_config(write_config(raw_config)))) == len(rows) - 1


def test_large_cells_stay_in_the_test_set_only(raw_config, write_config, rows, jsonl):
    for split in ("train", "val", "test"):
        big = structure(rows[0]).make_supercell([2, 1, 1])
        rows.append(
            {
                "id": f"big-{split}",
                "lattice_matrix": big.lattice.matrix.tolist(),
                "species": [site.specie.symbol for site in big],
                "frac_coords": big.frac_coords.tolist(),
                "formation_energy": -1.0,
                "split": split,
            }
        )
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"structures": jsonl.name, "max_sites": 2}
    crystals = load_crystals(load_config(write_config(raw_config | {"data": data})))
    assert [name for name in crystals.ids if name.startswith("big")] == ["big-test"]


def test_a_random_split_divides_what_is_left_to_train_on(raw_config, write_config, rows, jsonl):
    """The source's own held-out crystals become the test set."""
    source = {
        "path": jsonl.name,
        "splits": {"val": "test"},
        "random_split": {"val": 0.25, "test": 0},
    }
    crystals = load_crystals(
        load_config(write_config(raw_config | {"data": {"structures": source}}))
    )
    for row, split in zip(rows, crystals.split.tolist(), strict=True):
        assert (split == "test") == (row["split"] in ("val", "test"))
    assert (crystals.split == "val").sum() == round(0.25 * (crystals.split != "test").sum())


def write_source(path, names: dict[str, str], **labels: float) -> str:
    """A file with two-atom crystals, formula -> split, all with the same labels."""
    rows = [
        {
            "id": f"{path.stem}-{formula}",
            "lattice_matrix": (4 * np.eye(3)).tolist(),
            "species": [formula[:2], formula[2:]],
            "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
            "split": split,
            **labels,
        }
        for formula, split in names.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def test_later_sources_follow_the_split_of_the_earlier(raw_config, write_config, tmp_path, rows):
    """The bulk modulus of a compound must not be learned where its energy is tested."""
    first = {"NaCl": "test", "NaBr": "val", "LiBr": "train"}
    second = {"NaCl": "train", "ClNa": "val", "NaBr": "test", "LiBr": "test", "RbBr": "test"}
    structures = [
        write_source(tmp_path / "first.jsonl", first, formation_energy=-1.0),
        write_source(tmp_path / "second.jsonl", second, modulus=70.0),
        write_source(tmp_path / "third.jsonl", {"RbBr": "val", "BrLi": "val"}, modulus=60.0),
    ]
    raw_config["targets"] = [
        {"name": "formation_energy", "unit": "eV/atom"},
        {"name": "bulk_modulus", "unit": "GPa"},
    ]
    labels = {"bulk_modulus": ["modulus"], "formation_energy": []}
    raw_config["data"] = {
        "structures": [structures[0]] + [{"path": p, "labels": labels} for p in structures[1:]]
    }
    crystals = load_crystals(load_config(write_config(raw_config)))
    split = dict(zip(crystals.ids, crystals.split.tolist(), strict=True))
    assert split == {
        **{f"first-{formula}": name for formula, name in first.items()},
        "second-NaCl": "test",
        "second-ClNa": "test",
        "second-NaBr": "val",
        "second-LiBr": "train",
        "second-RbBr": "test",
        "third-RbBr": "test",
        "third-BrLi": "train",
    }
    known = dict(zip(crystals.ids, ~np.isnan(crystals.targets), strict=True))
    assert known["first-NaCl"].tolist() == [True, False]
    assert known["second-NaCl"].tolist() == [False, True]


def test_the_first_column_that_a_crystal_has_is_its_label(raw_config, write_config, rows, jsonl):
    for row in rows:
        row["old_gap"] = 9.0
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": jsonl.name, "labels": {"band_gap": ["band_gap", "old_gap"]}}
    crystals = load_crystals(
        load_config(write_config(raw_config | {"data": {"structures": source}}))
    )
    assert crystals.targets[:, 1].tolist() == [row.get("band_gap", 9.0) for row in rows]


def test_random_split_is_seeded_and_of_the_right_size():
    split = random_split(100, RandomSplit(val=0.1, test=0.2), seed=3)
    assert {name: int((split == name).sum()) for name in ("train", "val", "test")} == {
        "train": 70,
        "val": 10,
        "test": 20,
    }
    np.testing.assert_array_equal(split, random_split(100, RandomSplit(val=0.1, test=0.2), seed=3))
    assert (split != random_split(100, RandomSplit(val=0.1, test=0.2), seed=4)).any()


def test_birch_murnaghan_has_the_bulk_modulus_it_was_given():
    """Fit with ASE's equation of state, which also knows the derivative only through the data."""
    factor = np.linspace(0.97, 1.03, 21)
    energy = birch_murnaghan(factor, np.full(21, 16.0), np.full(21, 120.0))
    v0, e0, modulus = EquationOfState(16.0 * factor**3, energy, eos="birchmurnaghan").fit()
    assert v0 == pytest.approx(16.0, rel=1e-6)
    assert e0 == pytest.approx(0.0, abs=1e-6)
    assert modulus / GPa == pytest.approx(120.0, rel=1e-4)


def test_strained_copies_are_crystals_with_raised_energy(raw_config, write_config):
    raw_config["strained_copies"] = {"max_strain": 0.05, "copies": 2}
    config = load_config(write_config(raw_config))
    crystals = load_crystals(config)
    copies = strained_copies(crystals, config.strained_copies, energy_columns=[0], seed=0)
    originals = crystals.select(np.tile(np.arange(len(crystals)), 2))
    assert len(copies) == len(originals)
    assert len(np.unique(np.linalg.det(copies.lattice))) == len(copies)
    assert (copies.targets[:, 0] > originals.targets[:, 0]).all()
    assert np.isnan(copies.targets[:, 1]).all()
    factor = np.cbrt(np.linalg.det(copies.lattice) / np.linalg.det(originals.lattice))
    assert (np.abs(factor - 1) <= 0.05).all()
    assert np.abs(factor - 1).max() > 0.02
    both = concatenate([crystals, copies])
    assert len(both.batch()) == len(crystals) + len(copies)
    np.testing.assert_array_equal(both.lattice[len(crystals) :], copies.lattice)


def test_all_energies_of_a_copy_rise_alike(raw_config, write_config, rows, jsonl):
    for row in rows:
        row["e_above_hull"] = 0.02
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw_config["targets"].append({"name": "e_above_hull", "unit": "eV/atom", "minimum": 0.0})
    raw_config["strained_copies"] = {"energies": ["formation_energy", "e_above_hull"]}
    config = load_config(write_config(raw_config))
    crystals = load_crystals(config)
    copies = strained_copies(crystals, config.strained_copies, [0, 2], seed=0)
    rise = copies.targets - crystals.targets
    np.testing.assert_allclose(rise[:, 2], rise[:, 0], rtol=1e-9)
    assert (rise[:, 2] > 0).all()
    assert np.isnan(rise[:, 1]).all()


def test_copies_of_test_crystals_are_never_learned(raw_config, write_config):
    raw_config["strained_copies"] = {"copies": 2}
    data = TrainingData.load(load_config(write_config(raw_config)))

    def names(crystals: LabelledCrystals) -> set[str]:
        return {name.split("*")[0] for name in crystals.ids}

    assert names(data.learned) == names(data.parts["train"])
    assert len(data.learned) == 3 * len(data.parts["train"])
    assert names(data.strained_test) == names(data.parts["test"])
    assert len(data.strained_test) == 2 * len(data.parts["test"])


def test_strained_copies_skip_failed_moduli(raw_config, write_config, rows, jsonl):
    for row, value in zip(rows, (-5.0, 0.0, 1e4), strict=False):
        row["bulk_modulus"] = value
    del rows[3]["bulk_modulus"]
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw_config["strained_copies"] = {}
    crystals = load_crystals(load_config(write_config(raw_config)))
    copies = strained_copies(crystals, StrainConfig(), energy_columns=[0], seed=0)
    assert "crystal-5" in {name.split("*")[0] for name in copies.ids}
    assert not {f"crystal-{n}" for n in range(4)} & {name.split("*")[0] for name in copies.ids}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda row: row.update(split="holdout"), "split holds 'holdout'; it must be one of train"),
        (lambda row: row.update(band_gap="wide"), "has band_gap = 'wide', which is not a number"),
        (lambda row: row.update(species=["Na", "Xx"]), "crystal crystal-1 holds 'Xx'"),
        (lambda row: row.update(species=["Na", "Es"]), "not an element with Z <= 98"),
    ],
)
def test_bad_rows_are_named(raw_config, write_config, rows, jsonl, edit, message):
    edit(rows[1])
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message) as caught:
        load_crystals(load_config(write_config(raw_config)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"structures": "nothing.jsonl"}}, "there is no structure file"),
        ({"data": {"structures": "crystals.csv"}}, "or a folder together with its table"),
        (
            {"data": {"structures": {"path": "nowhere", "table": "labels.csv"}}},
            "which is not a folder",
        ),
        ({"targets": [{"name": "hardness", "unit": "GPa"}]}, "no train crystal .* hardness"),
    ],
)
def test_unusable_data_is_explained(raw_config, write_config, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_crystals(load_config(write_config(raw_config | change)))
    assert "\n" not in str(caught.value)


def test_bad_tables_are_explained(raw_config, write_config, tmp_path):
    (tmp_path / "cells").mkdir()
    config = raw_config | {"data": {"structures": {"path": "cells", "table": "labels.csv"}}}
    with pytest.raises(ValueError, match="there is no table"):
        load_crystals(load_config(write_config(config)))
    (tmp_path / "labels.csv").write_text("name,formation_energy\na.cif,1\n")
    with pytest.raises(ValueError, match="no column 'file'; it has name, formation_energy"):
        load_crystals(load_config(write_config(config)))
    (tmp_path / "labels.csv").write_text("file,formation_energy\na.txt,1\n")
    with pytest.raises(ValueError, match=r"names a\.txt, which is neither CIF nor POSCAR"):
        load_crystals(load_config(write_config(config)))
