from __future__ import annotations

from pathlib import Path

import pytest

from smoacs.predictors.base import GraphSpec
from smoacs.training.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"


def test_reads_a_complete_configuration_with_paths_relative_to_it(
    raw_config, write_config, tmp_path
):
    config = load_config(write_config(raw_config))
    assert config.output == tmp_path / "run"
    (source,) = config.data.structures
    assert (source.path, source.table) == (tmp_path / "crystals.jsonl", None)
    assert [target.minimum for target in config.targets] == [None, 0.0]
    spec = config.graph.spec()
    assert (spec.k, spec.three_body_cutoff, spec.line_graph) == (6, 3.0, True)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_committed_configurations_are_sound(path):
    config = load_config(path)
    assert {config.output.parent} == {CONFIGS.parent / "training-runs"}
    assert config.licence != "not stated"
    assert config.origin != "not stated"


def test_models_to_start_from_go_by_name_or_path(raw_config, write_config, tmp_path):
    named = load_config(write_config(raw_config | {"start_from": "smoacs-alignn-mp"}))
    assert named.start_from == "smoacs-alignn-mp"
    path = load_config(write_config(raw_config | {"start_from": "old/model.json"}))
    assert path.start_from == str(tmp_path / "old" / "model.json")


def test_families_have_their_own_settings(raw_config, write_config):
    crystalformer = {
        "graph": {"rule": "radius", "cutoff": 5.0, "three_body_cutoff": None},
        "model": {"family": "crystalformer", "width": 32, "heads": 2},
    }
    config = load_config(write_config(raw_config | crystalformer))
    assert config.graph.spec() == GraphSpec(cutoff=5.0, tie_tolerance=0.01)
    assert (config.model.width, config.model.layers) == (32, 4)
    assert load_config(write_config(raw_config)).model.family == "alignn"


def test_sources_are_a_list_or_a_single_one(raw_config, write_config, tmp_path):
    structures = ["a.jsonl", {"path": "cells", "table": "t.csv", "labels": {"band_gap": ["Eg"]}}]
    config = load_config(write_config(raw_config | {"data": {"structures": structures}}))
    first, second = config.data.structures
    assert (first.path, second.path) == (tmp_path / "a.jsonl", tmp_path / "cells")
    assert second.table == tmp_path / "t.csv"
    assert first.columns("band_gap") == ("band_gap",)
    assert second.columns("band_gap") == ("Eg",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, "epoch: unknown key"),
        ({"epochs": 0}, "epochs: .*greater than or equal to 1"),
        ({"targets": []}, "targets: .*at least 1 item"),
        ({"targets": [{"name": "gap"}]}, "targets.0.unit: Field required"),
        ({"targets": [{"name": "two words", "unit": "eV"}]}, "targets.0.name"),
        ({"targets": [{"name": "gap", "unit": "eV"}] * 2}, "named twice: gap, gap"),
        ({"graph": {"rule": "knn", "k": None}}, "graph.k must be set for the rule knn"),
        ({"graph": {"three_body_cutoff": None}}, "alignn needs pairs of bonds"),
        ({"model": {"family": "crystalformer"}}, "graph.rule must be radius and .* null"),
        ({"model": {"family": "schnet"}}, "model: .*'alignn', 'crystalformer'"),
        ({"model": {"heads": 8}}, "model.alignn.heads: unknown key"),
        ({"graph": {"rule": "voronoi"}}, "graph.rule: .*'radius', 'knn' or 'knn_shell'"),
        ({"strained_copies": {"energies": ["gap"]}}, "'gap', which is not among the targets"),
        (
            {"data": {"structures": {"path": "x", "random_split": {"val": 0.6, "test": 0.5}}}},
            "must leave",
        ),
        ({"data": {"structures": []}}, "data.structures: .*at least 1 item"),
        ({"data": {"structures": ["x", {"file": "y"}]}}, "data.structures.1.file: unknown key"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate: .*greater than 0"),
    ],
)
def test_bad_entries_are_named_in_one_line(raw_config, write_config, change, message):
    path = write_config(raw_config | change)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not valid YAML"), ("just words", "must hold a mapping"), (None, "there is no")],
)
def test_unreadable_configuration(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
