"""Official ALIGNN files, made here with random weights, load with the right graph and property."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from smoacs.crystals import CrystalBatch
from smoacs.ops import edge_vectors
from smoacs.predictors import load
from smoacs.predictors.alignn import ALIGNN, ALIGNNConfig
from smoacs.predictors.base import Graph, GraphSpec
from smoacs.predictors.element_features import cgcnn_table
from smoacs.testing import check_predictor

Fill = Callable[[nn.Module], nn.Module]

SIZE = {"alignn_layers": 1, "gcn_layers": 1, "embedding_features": 8, "hidden_features": 16}
FIRST = {
    "cutoff": 8.0,
    "max_neighbors": 12,
    "atom_features": "cgcnn",
    "neighbor_strategy": "k-nearest",
    "target": "formation_energy_peratom",
    "model": {"name": "alignn", **SIZE, "atom_input_features": 92, "link": "identity"},
}
SECOND = {
    "cutoff": 5.0,
    "max_neighbors": 12,
    "atom_features": "cgcnn",
    "neighbor_strategy": "pure_torch",
    "target": "optb88vdw_bandgap",
    "model": {
        "name": "alignn_atomwise_pure",
        **SIZE,
        "atom_input_features": 92,
        "calculate_gradient": False,
        "gradwise_weight": 0.0,
    },
}


@pytest.fixture
def first(tmp_path: Path, hash_fill: Fill) -> Path:
    """Zip of the first generation: a sub-folder, and weights among other things."""
    network = hash_fill(ALIGNN(ALIGNNConfig(**SIZE)))
    path = tmp_path / "jv_formation_energy_peratom_alignn.zip"
    write_zip(path, FIRST, {"model": network.state_dict(), "optimizer": {"state": {}}})
    return path


def write_zip(path: Path, config: dict, weights: object) -> None:
    file = path.with_suffix(".tmp")
    torch.save(weights, file)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/config.json", json.dumps(config))
        archive.writestr(f"{path.stem}/ids_train_val_test.json", "{}")
        archive.write(file, f"{path.stem}/checkpoint_300.pt")


def write_folder(path: Path, config: dict, weights: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    torch.save(weights, path / "best_model.pt")
    return path


def second_state(hash_fill: Fill, **size: int) -> dict:
    network = hash_fill(ALIGNN(ALIGNNConfig(**SIZE | size, norm="layer")))
    return {**network.state_dict(), "_species_table": torch.zeros(120, 92)}


def test_first_generation(first: Path, hash_fill: Fill, rattled_crystals: CrystalBatch) -> None:
    predictor = load(f"alignn:{first}")
    assert predictor.name == "alignn:jv_formation_energy_peratom_alignn"
    assert [(p.name, p.unit) for p in predictor.properties] == [("formation_energy", "eV/atom")]
    assert predictor.graph == GraphSpec(8.0, 12, "knn_shell", tie_tolerance=0.0, line_graph=True)
    assert len(predictor.elements) == 98
    crystals = rattled_crystals.to(dtype=torch.float32)
    graph = Graph.build(crystals, predictor.graph)
    expected = hash_fill(ALIGNN(ALIGNNConfig(**SIZE)))(
        crystals.composition @ cgcnn_table(),
        edge_vectors(crystals.frac_coords, crystals.lattice, graph.neighbors),
        graph.bonds(len(crystals.frac_coords)),
        graph.pairs,
        crystals.ptr,
    )
    found = predictor.predict(crystals, graph)["formation_energy"]
    torch.testing.assert_close(found, expected[:, 0].detach())


def test_second_generation(tmp_path: Path, hash_fill: Fill) -> None:
    folder = write_folder(tmp_path / "gap", SECOND, second_state(hash_fill))
    predictor = load(f"alignn:{folder}")
    assert [(p.name, p.unit) for p in predictor.properties] == [("band_gap", "eV")]
    assert predictor.graph == GraphSpec(
        5.0, 12, "knn", 1e-5, line_graph=True, three_body_cutoff=3.5, self_pairs=True
    )


def test_graph_settings_of_the_second_generation_are_read(tmp_path: Path, hash_fill: Fill) -> None:
    config = SECOND | {"cutoff": 8.0, "max_neighbors": 16, "three_body_cutoff": 8.0}
    folder = write_folder(tmp_path / "gap", config, second_state(hash_fill))
    assert load(f"alignn:{folder}").graph == GraphSpec(
        8.0, 16, "knn", 1e-5, line_graph=True, self_pairs=True
    )


def test_the_last_weight_file_counts(tmp_path: Path, hash_fill: Fill) -> None:
    folder = write_folder(tmp_path / "gap", SECOND, second_state(hash_fill))
    torch.save({"old": torch.zeros(1)}, folder / "a_checkpoint_10.pt")
    load(f"alignn:{folder}")
    torch.save({"old": torch.zeros(1)}, folder / "checkpoint_10.pt")
    with pytest.raises(ValueError, match="do not fit"):
        load(f"alignn:{folder}")


def test_a_bias_without_dimension_loads(tmp_path: Path, hash_fill: Fill) -> None:
    state = second_state(hash_fill)
    state["fc.bias"] = state["fc.bias"][0]
    load(f"alignn:{write_folder(tmp_path / 'gap', SECOND, state)}")


@pytest.mark.parametrize(
    ("stem", "target", "expected"),
    [
        ("mp_gappbe_alignn", "target", ("band_gap", "eV")),
        ("anything", "e_form", ("formation_energy", "eV/atom")),
        ("jv_ehull_alignn", "target", ("e_above_hull", "eV/atom")),
        ("jv_bulk_modulus_kv_alignn", "target", ("bulk_modulus", "GPa")),
        ("tc_supercon_knn", "Tc_supercon", ("tc", "K")),
        ("jv_slme_alignn", "slme", ("slme", "%")),
        ("my_model", "target", ("my_model", "")),
    ],
)
def test_properties_are_recognised(
    tmp_path: Path, hash_fill: Fill, stem: str, target: str, expected: tuple[str, str]
) -> None:
    config = SECOND | {"target": target}
    folder = write_folder(tmp_path / stem, config, second_state(hash_fill))
    [found] = load(f"alignn:{folder}").properties
    assert (found.name, found.unit) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "alignn_atomwise"}, "kind 'alignn_atomwise'"),
        ({"classification": True}, "classifier"),
        ({"extra_features": 3}, "extra features"),
        ({"atomwise_output_features": 1}, "single atoms"),
        ({"output_features": 100}, "100 numbers"),
        ({"conv_type": "t_alignn"}, "'t_alignn'"),
        ({"calculate_gradient": True, "gradwise_weight": 1.0}, "force field"),
        ({"atom_input_features": 1}, "1 features per atom"),
        ({"hidden_features": 32}, "do not fit the model; wrong shape"),
    ],
)
def test_other_models_are_refused(
    tmp_path: Path, hash_fill: Fill, changes: dict, message: str
) -> None:
    config = SECOND | {"model": SECOND["model"] | changes}
    n_features = changes.get("atom_input_features", 92)
    state = second_state(hash_fill, atom_input_features=n_features)
    folder = write_folder(tmp_path / "gap", config, state)
    with pytest.raises(ValueError, match=message):
        load(f"alignn:{folder}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FIRST | {"neighbor_strategy": "radius_graph"}, "'radius_graph'"),
        (FIRST | {"atom_features": "atomic_number"}, "'atomic_number'"),
        (FIRST | {"model": None}, "describes no model"),
        (["FIRST"], "no JSON object"),
    ],
)
def test_other_descriptions_are_refused(
    tmp_path: Path, hash_fill: Fill, config: dict, message: str
) -> None:
    path = tmp_path / "model.zip"
    write_zip(path, config, hash_fill(ALIGNN(ALIGNNConfig(**SIZE))).state_dict())
    with pytest.raises(ValueError, match=message):
        load(f"alignn:{path}")


def test_old_weights_in_the_new_network_are_refused(tmp_path: Path, hash_fill: Fill) -> None:
    state = hash_fill(ALIGNN(ALIGNNConfig(**SIZE))).state_dict()
    folder = write_folder(tmp_path / "gap", SECOND, state)
    with pytest.raises(ValueError, match=r"unexpected:.*running_mean"):
        load(f"alignn:{folder}")


def test_incomplete_files(tmp_path: Path, first: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(first.read_bytes()[:3000])
    with pytest.raises(ValueError, match="neither a folder nor a complete zip"):
        load(f"alignn:{tmp_path / 'cut.zip'}")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config\.json.*Figshare"):
        load(f"alignn:{empty}")
    (empty / "config.json").write_text(json.dumps(FIRST))
    with pytest.raises(FileNotFoundError, match=r"no best_model\.pt or checkpoint"):
        load(f"alignn:{empty}")
    with pytest.raises(FileNotFoundError, match="get them from Figshare"):
        load("alignn:no_such_model")


def test_both_generations_keep_the_contract(tmp_path: Path, first: Path, hash_fill: Fill) -> None:
    check_predictor(load(f"alignn:{first}"))
    folder = write_folder(tmp_path / "e_form", SECOND, second_state(hash_fill))
    check_predictor(load(f"alignn:{folder}"))
