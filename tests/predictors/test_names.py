"""Published models load by their names: from caches, else from the network, else with a hint."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from file_server import FileServer
from smoacs.predictors import alignn_models, load, megnet
from smoacs.predictors.alignn import ALIGNN, ALIGNNConfig
from smoacs.predictors.alignn_models import official_models
from smoacs.predictors.base import Property

Fill = Callable[[nn.Module], nn.Module]
Serve = Callable[[dict[str, bytes]], FileServer]

SIZE = {"alignn_layers": 1, "gcn_layers": 1, "embedding_features": 8, "hidden_features": 16}
GAP, EFORM = "mp_gappbe_alignn", "mp_e_form_alignn"
MEGNET = "MEGNet-MP-2018.6.1-Eform"


def torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture
def archive(hash_fill: Fill) -> Callable[[str], bytes]:
    """A zip as Figshare has it, of a small model of the first generation."""
    state = hash_fill(ALIGNN(ALIGNNConfig(**SIZE))).state_dict()
    weights = torch_file({"model": state, "optimizer": {"state": {}}})

    def make(target: str) -> bytes:
        config = {"target": target, "model": {"name": "alignn", **SIZE}, "cutoff": 8.0}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as target_file:
            target_file.writestr("gap/config.json", json.dumps(config))
            target_file.writestr("gap/checkpoint_300.pt", weights)
        return buffer.getvalue()

    return make


@pytest.fixture
def figshare(
    file_server: Serve, archive: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> FileServer:
    """Figshare with two models."""
    server = file_server({"31458814": archive("gap pbe"), "31458811": archive("e_form")})
    monkeypatch.setattr(alignn_models, "FIGSHARE", f"{server.url}/moved/")
    return server


def test_an_official_model_is_downloaded_once(figshare: FileServer, tmp_path: Path) -> None:
    for _ in range(2):
        predictor = load(f"alignn:{GAP}")
        assert predictor.name == f"alignn:{GAP}"
        assert predictor.properties == (Property("band_gap", "eV", 0.0, 17.8),)
        assert predictor.graph is not None
        assert (predictor.graph.rule, predictor.graph.k) == ("knn_shell", 12)
    assert figshare.requests == ["moved/31458814", "31458814"]
    assert (tmp_path / "cache" / "alignn" / f"{GAP}.zip").is_file()


def test_files_of_the_alignn_package_are_used(
    figshare: FileServer,
    archive: Callable[[str], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMOACS_OFFLINE", "1")
    monkeypatch.setenv("ATOMGPTLAB_CACHE", str(tmp_path / "atomgptlab"))
    with pytest.raises(FileNotFoundError, match="SMOACS_OFFLINE"):
        load(f"alignn:{EFORM}")
    first = tmp_path / "atomgptlab" / "alignn_models" / f"{EFORM}.zip"
    second = tmp_path / "home" / ".alignn2_models" / "ehull_knn"
    first.parent.mkdir(parents=True)
    first.write_bytes(archive("e_form"))
    with zipfile.ZipFile(io.BytesIO(archive("ehull"))) as content:
        content.extractall(second)
    assert load(f"alignn:{EFORM}").properties[0].name == "formation_energy"
    assert load("alignn:ehull_knn").properties[0].name == "e_above_hull"
    assert figshare.requests == []


def test_offline_says_what_is_missing(
    figshare: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOACS_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as error:
        load(f"alignn:{GAP}")
    place = tmp_path / "cache" / "alignn" / f"{GAP}.zip"
    for part in (f"{GAP}.zip", "SMOACS_OFFLINE", f"{figshare.url}/moved/31458814", str(place)):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"state\.pt.*huggingface\.co.*megnet.*state\.pt"):
        load(f"megnet:{MEGNET}")
    assert figshare.requests == []


def test_a_renamed_model_is_refused(figshare: FileServer, archive: Callable[[str], bytes]) -> None:
    figshare.content["31458814"] = archive("formation_energy_peratom")
    with pytest.raises(ValueError, match=rf"'formation_energy_peratom', so it is not {GAP}"):
        load(f"alignn:{GAP}")


def test_a_path_comes_before_a_name(
    figshare: FileServer,
    archive: Callable[[str], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(GAP).write_bytes(archive("ehull"))
    assert load(f"alignn:{GAP}").properties[0].name == "e_above_hull"
    assert figshare.requests == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("edos", "'spectra' with 300 outputs"), ("jv_supercon_a2F_alignn", "100 outputs")],
)
def test_models_of_spectra_are_refused_before_any_download(
    figshare: FileServer, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(f"alignn:{name}")
    assert figshare.requests == []


def test_misspelt_names(figshare: FileServer) -> None:
    with pytest.raises(FileNotFoundError, match=rf"did you mean {GAP}"):
        load("alignn:mp_gapbe_alignn")
    with pytest.raises(FileNotFoundError, match=rf"did you mean {MEGNET}"):
        load("megnet:MEGNet-MP-2018.6-Eform")


def test_newer_names_come_from_the_alignn_package(
    figshare: FileServer, archive: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("alignn.pretrained")
    package.ALIGNN2_MODELS = {  # type: ignore[attr-defined]
        "hardness": {
            "url": f"{alignn_models.FIGSHARE}999",
            "target": "Hardness",
            "output_features": 1,
            "test_mae": 1.0,
        }
    }
    monkeypatch.setitem(sys.modules, "alignn", ModuleType("alignn"))
    monkeypatch.setitem(sys.modules, "alignn.pretrained", package)
    figshare.content["999"] = archive("Hardness")
    assert load("alignn:hardness").properties[0].name == "hardness"


def test_every_official_model_is_described() -> None:
    models = official_models()
    assert len(models) == 177
    assert len({model.file for model in models.values()}) == 177
    for model in models.values():
        if model.usable:
            assert model.gives.low < model.gives.high
    tc = models["jv_supercon_tc_alignn"]
    assert tc.gives == Property("tc", "K", 0.0, 33.5)
    assert (tc.file, tc.mae) == (38789199, 2.032)
    assert models["jv_bulk_modulus_kv_alignn"].gives.unit == "GPa"
    assert models["ehull_radius"].mae == 0.0576
    assert sum(model.usable for model in models.values()) == 150


@pytest.mark.external
@pytest.mark.parametrize("name", [model.name for model in megnet.PUBLISHED])
def test_a_published_megnet_is_downloaded(
    shared: Path, file_server: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files = {
        f"{name}/{file}": (shared / "weights" / name / file).read_bytes()
        for file in ("state.pt", "model.json")
    }
    server = file_server(files)
    # What lies at the first place is another file of the same name.
    newer = file_server({f"{name}/resolve/main/state.pt": files[f"{name}/model.json"]})
    monkeypatch.setattr(megnet, "HUGGING_FACE", newer.url)
    monkeypatch.setattr(megnet, "GITHUB", server.url)
    for _ in range(2):
        assert load(f"megnet:{name}").name == f"megnet:{name}"
    assert server.requests == [f"{name}/state.pt", f"{name}/model.json"]


def test_other_files_in_place_of_a_published_megnet(
    file_server: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = file_server({f"{MEGNET}/state.pt": torch_file({"weight": torch.ones(3)})})
    monkeypatch.setattr(megnet, "HUGGING_FACE", server.url)
    monkeypatch.setattr(megnet, "GITHUB", server.url)
    with pytest.raises(FileNotFoundError, match=r"SHA-256 is .*get it from"):
        load(f"megnet:{MEGNET}")
    cached = tmp_path / "cache" / "megnet" / MEGNET / "state.pt"
    cached.write_bytes(server.content[f"{MEGNET}/state.pt"])
    with pytest.raises(ValueError, match="is damaged or another file"):
        load(f"megnet:{MEGNET}")
