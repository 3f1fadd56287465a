"""config.yaml: what it holds, what it refuses, and what becomes of it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from pymatgen.core import Lattice, Structure

from smoacs.config import (
    CustomEntry,
    PerovskiteEntry,
    RunConfig,
    SavedEntry,
    adapt_preset,
    make_config,
    make_objectives,
    make_preset,
    make_templates,
    objective_entry,
    predictor_names,
    preset_entry,
    read_config,
    template_entry,
)
from smoacs.objectives import Custom, Maximize, Minimize, ToleranceFactor, Window
from smoacs.schedules import PRESETS
from smoacs.start import random_lengths
from smoacs.templates import from_structure, perovskite
from smoacs.templates.saved import load_templates, same_template, save_templates

GAP = {"kind": "window", "name": "band_gap", "target": 2.5, "margin": 0.2}
PEROVSKITE = {"kind": "perovskite"}


def config(**entries) -> RunConfig:
    return make_config(**{"template": PEROVSKITE, "objectives": [GAP], **entries})


def written(folder: Path, text: str | dict) -> Path:
    path = folder / "config.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return path


def salt() -> Structure:
    return Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


OBJECTIVES = [
    Window("band_gap", 2.5, 0.2, slack=0.1),
    Minimize("formation_energy", below=-0.5, strength=2.0, enough=float("-inf")),
    Minimize("energy_above_hull"),
    Maximize("tc", above=3.0),
    ToleranceFactor(0.85, 0.95),
]


def test_objectives_survive_the_file(tmp_path) -> None:
    made = config(objectives=[objective_entry(o) for o in OBJECTIVES])
    assert make_objectives(read_config(written(tmp_path, made.to_yaml()))) == OBJECTIVES


def test_entries_have_the_fields_of_their_objectives() -> None:
    for objective in OBJECTIVES:
        made = {field.name for field in fields(objective) if field.init}
        assert set(type(objective_entry(objective)).model_fields) == made | {"kind"}


def test_a_written_configuration_reads_back_equal(tmp_path) -> None:
    made = config(
        template={"kind": "perovskite", "supercell": [3, 3, 1]},
        elements="Cs, Pb,I",
        exclude=["Cd"],
        start="random",
        masking="paper",
        seed=2**60,
        out=tmp_path / "run",
        reference=tmp_path / "known",
    )
    assert read_config(written(tmp_path, made.to_yaml())) == made
    assert made.elements == ("Cs", "Pb", "I")


def test_defaults_are_written_out(tmp_path) -> None:
    entries = yaml.safe_load(config().to_yaml())
    assert set(entries) == set(RunConfig.model_fields)
    assert entries["predictors"] == ["smoacs-crystalformer-mp", "smoacs-alignn-mp"]
    assert entries["candidates"] == 256


def test_paths_in_a_file_are_relative_to_it(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "own.json").touch()
    read = read_config(
        written(
            tmp_path,
            {
                "template": {"kind": "prototype", "source": "cifs"},
                "objectives": [GAP],
                "predictors": [
                    "alignn:model[band_gap]",
                    "alignn:elsewhere",
                    "own.json",
                    "smoacs-alignn-mp",
                ],
                "out": "run",
                "reference": "known.jsonl",
            },
        )
    )
    assert read.out == tmp_path / "run"
    assert read.reference == tmp_path / "known.jsonl"
    assert read.template.source == str(tmp_path / "cifs")
    assert read.predictors == (
        f"alignn:{tmp_path / 'model'}[band_gap]",
        "alignn:elsewhere",
        str(tmp_path / "own.json"),
        "smoacs-alignn-mp",
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"stepps": 10}, "stepps: unknown key"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1, got 0"),
        ({"candidates": "many"}, "candidates: .* got 'many'"),
        ({"seed": -1}, "seed: .*greater than or equal to 0, got -1"),
        ({"start": "zero"}, "start: Input should be 'radii' or 'random', got 'zero'"),
        ({"objectives": []}, "objectives: .*at least 1"),
        ({"objectives": [{**GAP, "kind": "windoww"}]}, "objectives.0: .*'windoww'"),
        ({"objectives": [{"kind": "window", "name": "x"}]}, "target: Field required"),
        ({"template": {"kind": "perovskite", "supercell": [0, 1, 1]}}, "supercell.0"),
    ],
)
def test_mistakes_are_one_line_that_names_the_entry(tmp_path, entries, message) -> None:
    path = written(tmp_path, {"template": PEROVSKITE, "objectives": [GAP], **entries})
    with pytest.raises(ValueError, match=message) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("template: [", "is not valid YAML"),
        ("just text", "must hold a mapping with keys such as template, objectives"),
        ("{}", "template: Field required; objectives: Field required"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, message) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(written(tmp_path, text))
    with pytest.raises(ValueError, match="there is no configuration file"):
        read_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("make", "entries", "message"),
    [
        (make_preset, {"preset": "defualt"}, "unknown preset 'defualt': choose default, paper"),
        (make_objectives, {"objectives": [{**GAP, "margin": -1}]}, "margin .* must be positive"),
        (make_templates, {"oxidation": "best"}, "unknown oxidation table 'best': choose smoacs"),
        (
            make_templates,
            {"template": {"kind": "prototype", "source": "afolw"}},
            "there are no prototypes at .*afolw': give 'aflow', 'minerals'",
        ),
    ],
)
def test_mistakes_in_values(make, entries, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(config(**entries))


def test_prototypes_by_name(tmp_path) -> None:
    for name in ("first", "second", "third"):
        salt().to(str(tmp_path / f"{name}.cif"), fmt="cif")
    source = {"kind": "prototype", "source": str(tmp_path)}
    found = make_templates(config(template={**source, "only": "third,first"}))
    assert [t.name for t in found] == ["third", "first"]
    with pytest.raises(ValueError, match="has no prototype 'secnd': did you mean 'second'"):
        make_templates(config(template={**source, "only": "secnd"}))


def test_what_exists_only_in_python_is_named_and_refused() -> None:
    custom = Custom("density", lambda d: d.crystals.volume)
    preset = replace(PRESETS["default"], name="mine", rounds=1)
    made = config(
        objectives=[objective_entry(custom)],
        predictors=[CustomEntry(name="my model")],
        preset=preset_entry(preset),
    )
    for make, name in (
        (make_objectives, "objective 'density'"),
        (predictor_names, "predictor 'my model'"),
        (make_preset, "preset 'mine'"),
    ):
        with pytest.raises(ValueError, match=f"the {name} was made in Python"):
            make(made)


def test_known_presets_are_recognised() -> None:
    assert preset_entry(PRESETS["paper"]) == "paper"
    assert preset_entry("default") == "default"
    changed = replace(PRESETS["paper"], rebuilds=3)
    assert preset_entry(changed) == CustomEntry(name="paper")


def test_start_and_masking_adapt_the_preset() -> None:
    made = config(start="random", masking="paper")
    adapted = adapt_preset(make_preset(made), made)
    assert adapted.lattice_start is random_lengths
    assert adapted.masking == "paper"
    assert adapt_preset(PRESETS["default"], config()) == PRESETS["default"]


def test_perovskites_made_in_python_are_recognised() -> None:
    assert template_entry([perovskite()], "smoacs") == PerovskiteEntry()
    assert template_entry([perovskite((2, 1, 3))], "smoacs") == PerovskiteEntry(supercell=(2, 1, 3))
    assert isinstance(template_entry([perovskite(oxidation="pymatgen")], "smoacs"), SavedEntry)
    assert isinstance(template_entry([perovskite(), perovskite()], "smoacs"), SavedEntry)
    other = replace(perovskite(), name="perovskite-like")
    assert isinstance(template_entry([other], "smoacs"), SavedEntry)


def test_saved_templates_come_back_equal(tmp_path) -> None:
    made = [perovskite((2, 1, 1)), from_structure(salt(), "salt")]
    with open(tmp_path / "t.npz", "wb") as file:
        save_templates(file, made)
    read = load_templates(tmp_path / "t.npz")
    assert [t.name for t in read] == ["perovskite-2x1x1", "salt"]
    assert all(map(same_template, made, read))
    assert all(a.allowed.dtype == np.bool_ for a in read)
    assert not same_template(*read)


def test_saved_templates_that_are_none(tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no template file"):
        load_templates(tmp_path / "t.npz")
    (tmp_path / "t.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a template file"):
        load_templates(tmp_path / "t.npz")
    np.savez(tmp_path / "u.npz", **{f"a{i}": np.zeros(1) for i in range(11)})
    with pytest.raises(ValueError, match="is not a template file"):
        load_templates(tmp_path / "u.npz")
