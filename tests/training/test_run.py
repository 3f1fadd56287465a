from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from pymatgen.core import Structure
from rich.console import Console

from smoacs.predictors import load, predict
from smoacs.predictors.base import Graph
from smoacs.predictors.crystalformer_predictor import CrystalformerPredictor
from smoacs.predictors.weights import load_bundle, save_bundle
from smoacs.testing import check_predictor
from smoacs.training import add_reliability, train
from smoacs.training.config import load_config
from smoacs.training.data import load_crystals
from smoacs.training.loop import Trainer


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=120)


def table(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_a_model_with_a_truthful_card(raw_config, write_config, console, tmp_path):
    raw_config["strained_copies"] = {"max_strain": 0.05}
    result = train(write_config(raw_config), console=console)
    assert result.card == tmp_path / "run" / "toy.json"
    card, tensors = load_bundle(result.card)
    assert {p.name: (p.unit, p.minimum) for p in card.properties} == {
        "formation_energy": ("eV/atom", None),
        "band_gap": ("eV", 0.0),
    }
    assert set(card.elements) <= {"Li", "Na", "K", "Rb", "F", "Cl", "Br"}
    assert card.graph.k == 6
    assert tensors["fc.weight"].shape == (2, 16)
    training = card.training
    assert training["crystals"] == {"train": 16, "val": 4, "test": 4}
    assert training["strained_copies"] == 16
    assert training["mean_absolute_error"] == result.errors
    assert set(result.errors["strained_test"]) == {"formation_energy"}
    assert set(training["mean_absolute_deviation"]) == {"test", "strained_test"}
    low, high = card.domain.volume
    assert 0.2 < low < high < 20
    assert 0.3 < card.domain.contact < 2
    assert card.domain.atomic_volumes == {}  # no element in 20 crystals
    assert tensors["reliability.weight"].shape == (2, 16)
    predictions = table(tmp_path / "run" / "test_predictions.csv")
    for name, labelled in (
        ("formation_energy", 4),
        ("band_gap", training["labels"]["band_gap"]["test"]),
    ):
        errors = [
            abs(float(row[name]) - float(row[f"{name}_predicted"]))
            for row in predictions
            if row[name] != "nan"
        ]
        assert len(errors) == labelled
        assert np.mean(errors) == pytest.approx(result.errors["test"][name], rel=1e-5)
    assert len(table(tmp_path / "run" / "history.csv")) == 4
    shown = console.file.getvalue()
    assert "epoch 4: loss" in shown
    assert "model written to" in shown


def test_a_trained_crystalformer_is_a_predictor(
    crystalformer_config, write_config, console, tmp_path
):
    result = train(write_config(crystalformer_config), console=console)
    predictor = load(result.card)
    assert isinstance(predictor, CrystalformerPredictor)
    assert predictor.graph.cutoff == 5.0
    crystals = load_crystals(load_config(tmp_path / "config.yaml"))
    test = crystals.select(np.flatnonzero(crystals.split == "test"))
    batch = test.batch().to(dtype=torch.float32)
    found = predictor.predict(batch, Graph.build(batch, predictor.graph))
    for name in ("formation_energy", "band_gap"):
        rows = table(tmp_path / "run" / "test_predictions.csv")
        predicted = torch.tensor([float(row[f"{name}_predicted"]) for row in rows])
        torch.testing.assert_close(found[name], predicted, atol=1e-5, rtol=1e-5)
    check_predictor(predictor)


def test_an_interrupted_run_continues_to_the_same_model(
    raw_config, write_config, console, tmp_path, monkeypatch
):
    whole = load_bundle(train(write_config(raw_config), console=console).card)[1]
    run_epoch = Trainer.run_epoch

    def stop_in_third(self, on_step):
        if self.epoch == 2:
            raise KeyboardInterrupt
        return run_epoch(self, on_step)

    path = write_config(raw_config | {"output": "again"}, "again.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", stop_in_third)
        with pytest.raises(KeyboardInterrupt):
            train(path, console=console)
    assert not (tmp_path / "again" / "toy.json").exists()
    parts = load_bundle(train(path, console=console).card)[1]
    assert "after epoch 2" in console.file.getvalue()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.cuda
@pytest.mark.parametrize("family", ["raw_config", "crystalformer_config"])
def test_a_run_on_a_gpu_continues_on_the_cpu(
    family, request, write_config, console, tmp_path, monkeypatch
):
    config = request.getfixturevalue(family)
    whole = train(write_config(config), console=console)
    again = write_config(config | {"output": "again"}, "again.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finished", property(lambda self: self.epoch == 2))
        train(again, device=torch.device("cuda"), console=console)
    parts = train(again, console=console)
    assert parts.errors["val"] == pytest.approx(whole.errors["val"], rel=0.05)
    on_gpu = write_config(config | {"output": "gpu"}, "gpu.yaml")
    found = train(on_gpu, device=torch.device("cuda"), console=console)
    assert found.errors["test"] == pytest.approx(whole.errors["test"], rel=0.05)


def test_another_run_is_not_overwritten(raw_config, write_config, console):
    card = train(write_config(raw_config | {"epochs": 1}), console=console).card
    before = card.read_bytes()
    with pytest.raises(ValueError, match="other values of batch_size"):
        train(write_config(raw_config | {"epochs": 1, "batch_size": 3}), console=console)
    assert card.read_bytes() == before


@pytest.mark.parametrize("family", ["raw_config", "crystalformer_config"])
def test_training_starts_from_another_model(family, request, write_config, console, tmp_path):
    config = request.getfixturevalue(family)
    first = train(write_config(config), console=console).card
    old = load_bundle(first)[1]
    other = config | {
        "output": "second",
        "start_from": str(first),
        "targets": [{"name": "bulk_modulus", "unit": "GPa"}],
        "epochs": 1,
        "optimizer": {"learning_rate": 1e-9, "weight_decay": 0.0},
    }
    card, new = load_bundle(train(write_config(other), console=console).card)
    assert card.training["started_from"].startswith("toy, SHA-256 ")
    changed = {
        name
        for name, tensor in new.items()
        if not name.startswith("reliability.")
        and (tensor.shape != old[name].shape or not torch.allclose(tensor, old[name], atol=1e-6))
    }
    assert (
        load_bundle(tmp_path / "second" / "toy.json")[0].training["started_from"].startswith("toy")
    )
    last = {"raw_config": "fc", "crystalformer_config": "mlp.3"}[family]
    assert changed == {f"{last}.weight", f"{last}.bias"}
    longer = {"graph": config["graph"] | {"cutoff": 5.5}}
    with pytest.raises(ValueError, match=r"start_from: toy works on .*, not on"):
        train(write_config(other | longer | {"output": "third"}), console=console)


def test_only_models_of_the_same_shape_can_be_started_from(
    raw_config, write_config, console, tmp_path
):
    first = train(write_config(raw_config | {"epochs": 1}), console=console).card
    wider = raw_config | {"output": "wide", "start_from": str(first)}
    wider["model"] = raw_config["model"] | {"hidden_features": 24}
    with pytest.raises(ValueError, match="start_from: toy do not fit the model; wrong shape"):
        train(write_config(wider), console=console)


def test_reliability_can_be_added_later(raw_config, write_config, console, tmp_path):
    path = write_config(raw_config)
    trained = train(path, console=console).card
    card, tensors = load_bundle(trained)
    bare = save_bundle(
        tmp_path / "bare",
        network(tensors),
        **card.model_dump(include={"name", "architecture", "training"}),
        graph=card.graph,
        properties=card.properties,
        elements=card.elements,
    )
    assert "band_gap_std" not in predict(salts(), str(bare))
    added = add_reliability(bare, path, tmp_path / "added")
    again, found = load_bundle(added)
    assert again.domain == card.domain
    assert again.training == card.training
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, tensors[name], rtol=1e-3, atol=1e-5)
    assert (predict(salts(), str(added))["band_gap_std"] > 0).all()
    raw_config["targets"].reverse()
    with pytest.raises(ValueError, match="trains other properties than those of toy"):
        add_reliability(bare, write_config(raw_config), tmp_path / "other")


def network(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module with these tensors but those of the reliability."""
    holder = torch.nn.Module()
    state = {k: v for k, v in tensors.items() if not k.startswith("reliability.")}
    holder.state_dict = lambda: state
    return holder


def salts() -> list[Structure]:
    return [
        Structure(np.eye(3) * size, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for size in (3.4, 3.6)
    ]


def test_data_without_a_test_split(raw_config, write_config, console, rows, jsonl):
    for row in rows:
        row["split"] = "val" if row["split"] == "test" else row["split"]
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = train(write_config(raw_config | {"epochs": 1}), console=console)
    assert set(result.errors) == {"val"}
    assert not (result.card.parent / "test_predictions.csv").exists()
