"""Files of weights: whole ones load, all others are refused with a reason."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from smoacs.crystals import CrystalBatch
from smoacs.predictors import load
from smoacs.predictors.alignn import ALIGNN, ALIGNNConfig
from smoacs.predictors.alignn_predictor import ALIGNNPredictor
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.weights import (
    PropertyCard,
    as_state,
    cache_dir,
    fingerprint,
    load_bundle,
    load_strictly,
    load_torch,
    locate,
    save_bundle,
    sha256,
)

CONFIG = ALIGNNConfig(
    alignn_layers=1,
    gcn_layers=1,
    embedding_features=8,
    hidden_features=16,
    output_features=2,
    norm="layer",
)
SPEC = GraphSpec(6.0, 12, "knn_shell", 0.01, line_graph=True, three_body_cutoff=3.2)
PROPERTIES = (
    PropertyCard(name="formation_energy", unit="eV/atom", low=-4.0, high=2.0),
    PropertyCard(name="band_gap", unit="eV", low=0.0, high=9.0, minimum=0.0),
)


@pytest.fixture
def card(tmp_path: Path, hash_fill: Callable[[nn.Module], nn.Module]) -> Path:
    """Card of a model with random weights."""
    return save_bundle(
        tmp_path,
        hash_fill(ALIGNN(CONFIG)),
        name="tiny",
        architecture={"kind": "alignn", **asdict(CONFIG)},
        graph=SPEC,
        properties=PROPERTIES,
        elements=("O", "Na", "Ti", "Sr", "I"),
        training={"licence": "none", "seed": 0},
    )


def edit(card: Path, **changes: object) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


def test_a_bundle_comes_back_as_it_was(
    card: Path, hash_fill: Callable[[nn.Module], nn.Module], rattled_crystals: CrystalBatch
) -> None:
    predictor = load(card)
    assert isinstance(predictor, ALIGNNPredictor)
    assert predictor.name == "tiny"
    assert predictor.graph == SPEC
    assert predictor.elements == {8, 11, 22, 38, 53}
    assert predictor.properties == (
        Property("formation_energy", "eV/atom", -4.0, 2.0),
        Property("band_gap", "eV", 0.0, 9.0),
    )
    assert not any(weight.requires_grad for weight in predictor.network.parameters())
    assert fingerprint(predictor.network.state_dict()) == fingerprint(
        hash_fill(ALIGNN(CONFIG)).state_dict()
    )
    crystals = rattled_crystals.to(dtype=torch.float32)
    values = predictor.predict(crystals, Graph.build(crystals, SPEC))
    assert list(values) == ["formation_energy", "band_gap"]
    assert values["band_gap"].min() == 0
    edit(card, properties=[p.model_copy(update={"minimum": None}).model_dump() for p in PROPERTIES])
    assert load(card).predict(crystals, Graph.build(crystals, SPEC))["band_gap"].min() < 0


def test_either_file_names_the_bundle(card: Path) -> None:
    assert load(card.with_suffix(".safetensors")).name == load(str(card)).name == "tiny"


def test_the_card_holds_the_hash(card: Path) -> None:
    assert load_bundle(card)[0].sha256 == sha256(card.with_suffix(".safetensors"))


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_missing_file_is_named(card: Path, suffix: str) -> None:
    card.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError, match=rf"tiny\{suffix}.*side by side"):
        load_bundle(card)


def test_changed_weights_are_refused(card: Path) -> None:
    tensors = card.with_suffix(".safetensors")
    content = bytearray(tensors.read_bytes())
    content[-5] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.*SHA-256"):
        load_bundle(card)


def test_truncated_weights_are_refused_even_if_the_card_agrees(card: Path) -> None:
    tensors = card.with_suffix(".safetensors")
    tensors.write_bytes(tensors.read_bytes()[:1000])
    edit(card, sha256=sha256(tensors))
    with pytest.raises(ValueError, match="no safetensors file"):
        load_bundle(card)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"properties": []}, "no smoacs model card"),
        ({"surprise": 1}, "no smoacs model card"),
        ({"architecture": {"kind": "other"}}, "of kind 'other'"),
        ({"architecture": {"kind": "alignn", "layers": 3}}, "describes no alignn"),
        (
            {"architecture": {"kind": "alignn", **asdict(CONFIG), "gcn_layers": 2}},
            r"do not fit.*missing: gcn_layers\.1",
        ),
        (
            {"architecture": {"kind": "alignn", **asdict(CONFIG), "output_features": 3}},
            r"wrong shape: fc\.bias \(2,\) instead of \(3,\)",
        ),
    ],
)
def test_wrong_cards_are_refused(card: Path, changes: dict, message: str) -> None:
    edit(card, **changes)
    with pytest.raises(ValueError, match=message):
        load(card)


def test_no_card_at_all(card: Path) -> None:
    card.write_text("weights")
    with pytest.raises(ValueError, match="no smoacs model card"):
        load_bundle(card)


def test_strict_loading_names_what_is_left_over() -> None:
    network = nn.Linear(2, 2)
    state = dict(network.state_dict()) | {"scale": torch.ones(1)}
    with pytest.raises(ValueError, match=r"weights in FILE do not fit.*unexpected: scale"):
        load_strictly(network, state, "FILE")


class _Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("place", ["beside", "inside"])
@pytest.mark.parametrize("function", [print, os.system, eval, exec, nn.Linear, getattr])
def test_pickled_code_is_refused_and_never_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], function: Callable, place: str
) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    arguments: tuple = (f"echo this must never run; touch {mark}",)
    if function is nn.Linear:
        arguments = (2, 2)
    if function is getattr:  # the one name that old checkpoints hold: it must lead nowhere
        arguments = (_Call(print, "this must never run"), "flush")
    evil = _Call(function, *arguments)
    state = {"weight": torch.ones(2)}
    torch.save({**state, "x": evil} if place == "inside" else {"model": state, "x": evil}, path)
    with pytest.raises(ValueError, match=r"evil\.pt (is damaged or )?holds"):
        as_state(load_torch(path, "evil.pt"), "evil.pt")
    assert "never" not in capfd.readouterr().out
    assert not mark.exists()


def test_schedules_beside_the_weights_are_read_as_nothing(tmp_path: Path) -> None:
    """Checkpoints of torch before 1.13, which is what the first ALIGNN models are."""
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 10)
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"anneal_func": schedule.get_last_lr, "scheduler": schedule},
    }
    path = tmp_path / "checkpoint_300.pt"
    torch.save(content, path)
    found = load_torch(path, path.name)
    assert fingerprint(found["model"]) == fingerprint(network.state_dict())
    assert not isinstance(found["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.LRScheduler)


@pytest.mark.parametrize("content", [[1], {}, {"a": 1.0}, {1: torch.ones(1)}, torch.ones(2)])
def test_files_without_a_state_dict_are_refused(content: object) -> None:
    with pytest.raises(ValueError, match=r"a\.pt holds no state dict"):
        as_state(content, "a.pt")


def test_damaged_torch_files_never_crash() -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(10), "bias": torch.zeros(3)}, buffer)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        content = bytearray(buffer.getvalue())
        for place in torch.randint(len(content), (3,), generator=generator):
            content[int(place)] = int(torch.randint(256, (), generator=generator))
        with contextlib.suppress(ValueError):  # or else the damage does not matter
            as_state(load_torch(bytes(content), "a.pt"), "a.pt")


@pytest.mark.parametrize("length", [0, 10, 400])
def test_truncated_torch_files_are_refused(length: int) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(100)}, buffer)
    with pytest.raises(ValueError, match=r"cut\.pt is"):
        load_torch(buffer.getvalue()[:length], "cut.pt")


def test_weights_are_looked_for_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOACS_CACHE", str(tmp_path))
    (tmp_path / "megnet" / "model").mkdir(parents=True)
    assert cache_dir() == tmp_path
    assert locate("megnet", "model", "SOURCE") == tmp_path / "megnet" / "model"
    assert locate("megnet", str(tmp_path), "SOURCE") == tmp_path
    with pytest.raises(FileNotFoundError) as error:
        locate("megnet", "modle", "SOURCE", ["model", "other"])
    for part in ("'modle'", "did you mean model?", "SOURCE", str(tmp_path / "megnet" / "modle")):
        assert part in str(error.value)
    monkeypatch.delenv("SMOACS_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "smoacs"
