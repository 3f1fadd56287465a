"""Predictors are found by name, and a wrong name gets a helpful answer."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import smoacs.predictors
from smoacs.predictors import plugins
from smoacs.predictors.base import Property
from smoacs.predictors.weights import bundled
from smoacs.testing import check_predictor


class Zero:
    """The simplest predictor."""

    name = "zero"
    properties = (Property("zero", "", -1.0, 1.0),)
    graph = None
    elements = frozenset({8})
    device = "cpu"

    def predict(self, crystals: object, graph: object) -> dict[str, torch.Tensor]:
        return {"zero": torch.zeros(len(crystals))}  # type: ignore[arg-type]

    def to(self, device: str) -> Zero:
        self.device = device
        return self


def broken() -> Zero:
    raise RuntimeError("no licence")


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three registered predictors: a good one, a broken one, and no predictor at all."""
    found = [
        EntryPoint(name, f"{__name__}:{attribute}", plugins.GROUP)
        for name, attribute in (("zero", "Zero"), ("broken", "broken"), ("wrong", "dict"))
    ]
    factories = {"zero": Zero, "broken": broken, "wrong": dict}
    monkeypatch.setattr(EntryPoint, "load", lambda point: factories[point.name])
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: found if group == plugins.GROUP else []
    )


@pytest.mark.usefixtures("points")
def test_entry_points() -> None:
    predictor = smoacs.predictors.load("zero", device="meta")
    assert isinstance(predictor, Zero)
    assert predictor.device == "meta"
    with pytest.raises(ValueError, match=r"'broken'.*could not be loaded.*no licence"):
        smoacs.predictors.load("broken")
    with pytest.raises(TypeError, match="gave a dict, which is no predictor"):
        smoacs.predictors.load("wrong")
    assert "zero" in [info.name for info in smoacs.predictors.list()]


@pytest.mark.usefixtures("points")
@pytest.mark.parametrize("name", ["zeroo", "megnt:MEGNet-MP-2018.6.1-Eform", "alignn:", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match="no predictor") as error:
        smoacs.predictors.load(name)
    assert "alignn:NAME" in str(error.value)
    if name == "zeroo":
        assert "did you mean zero?" in str(error.value)


def test_list_says_what_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOACS_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "MEGNet-MP-2018.6.1-Eform"
    (tmp_path / "megnet" / name).mkdir(parents=True)
    (tmp_path / "megnet" / name / "state.pt").write_bytes(bytes(1234))
    infos = {info.name: info for info in smoacs.predictors.list()}
    found = infos[f"megnet:{name}"]
    assert found.ready
    assert found.size == 1234
    assert found.where == f"in {tmp_path / 'megnet' / name}"
    assert [(p.name, p.unit) for p in found.properties] == [("formation_energy", "eV/atom")]
    assert found.errors == {"formation_energy": 0.028}
    missing = infos["megnet:MEGNet-MP-2019.4.1-BandGap-mfi"]
    assert (missing.ready, missing.size) == (False, None)
    assert "huggingface.co" in missing.where
    official = infos["alignn:mp_gappbe_alignn"]
    assert not official.ready
    assert official.where.endswith("https://ndownloader.figshare.com/files/31458814")


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, smoacs.predictors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = smoacs.predictors.lode
    assert {"load", "list", "predict"} <= set(dir(smoacs.predictors))


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_models_keep_the_contract(name: str) -> None:
    assert name in [info.name for info in smoacs.predictors.list() if info.ready]
    check_predictor(smoacs.predictors.load(name))
