"""Crystalformer as a predictor: checkpoints, parameter files, bundles, the contract."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from smoacs.crystals import CrystalBatch
from smoacs.ops import edge_vectors
from smoacs.predictors import list as list_predictors
from smoacs.predictors import load
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.crystalformer import Crystalformer, CrystalformerConfig
from smoacs.predictors.crystalformer_predictor import CrystalformerPredictor
from smoacs.predictors.crystalformer_terms import ImageBox
from smoacs.predictors.weights import PropertyCard, save_bundle
from smoacs.testing import check_predictor

SMALL = CrystalformerConfig(
    layers=3, width=32, heads=2, hidden_width=48, readout=(24,), radial_functions=16
)
# Parameters as the original writes them, with a number of layers that the weights overrule.
PARAMS = {
    "num_layers": 2,
    "t_fixup_init": True,
    "domain": "real",
    "lattice_range": 1,
    "adaptive_cutoff_sigma": -3.0,
    "gauss_lb_real": 0.4,
    "positive_func": "elu=0.2",
    "scale_real": [1.4, 1.5],
    "value_pe_dist_max": 9.0,
    "value_pe_width_scale": 1.5,
}

Fill = Callable[[nn.Module], nn.Module]


@pytest.fixture
def network(hash_fill: Fill) -> Crystalformer:
    return hash_fill(Crystalformer(SMALL))


def checkpoint(network: Crystalformer, **more: object) -> dict:
    """What Lightning saves: two copies of the network, statistics of the target, settings."""
    state = {f"swa_model.module.{k}": v for k, v in network.state_dict().items()}
    state |= {f"model.{k}": 2 * v for k, v in network.state_dict().items()}
    state |= {
        "swa_model.n_averaged": torch.tensor(7),
        "target_std": torch.tensor([1.5]),
        "target_mean": torch.tensor([-0.5]),
    }
    return {"epoch": 499, "state_dict": state, "pytorch-lightning_version": "1.9.5", **more}


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def values(predictor: CrystalformerPredictor, crystals: CrystalBatch) -> Tensor:
    predictor = predictor.to(dtype=crystals.lattice.dtype)
    [value] = predictor.predict(crystals, Graph.build(crystals, predictor.graph)).values()
    return value


def expected(network: Crystalformer, crystals: CrystalBatch, config: CrystalformerConfig) -> Tensor:
    other = Crystalformer(config)
    other.load_state_dict(network.state_dict())
    other = other.double().eval()
    graph = Graph.build(crystals, other.graph_spec())
    vectors = edge_vectors(crystals.frac_coords, crystals.lattice, graph.neighbors)
    terms = other.terms(crystals, graph.neighbors, vectors)
    return other(crystals.composition @ other.element_table(), terms, crystals.ptr)[:, 0]


def test_averaged_weights_in_the_unit_of_the_target(
    tmp_path: Path, network: Crystalformer, rattled_crystals: CrystalBatch
) -> None:
    path = write(tmp_path / "megnet-e_form-layer4.ckpt", checkpoint(network))
    predictor = load(f"crystalformer:{path}")
    assert predictor.name == "crystalformer:megnet-e_form-layer4"
    assert [(p.name, p.unit) for p in predictor.properties] == [("formation_energy", "eV/atom")]
    assert predictor.graph == GraphSpec(cutoff=SMALL.cutoff)
    assert {1, 89, 94} <= predictor.elements
    assert 86 not in predictor.elements
    wanted = 1.5 * expected(network, rattled_crystals, SMALL) - 0.5
    torch.testing.assert_close(values(predictor, rattled_crystals), wanted, atol=1e-6, rtol=0)


def test_without_averaged_weights_the_last_are_taken(
    tmp_path: Path, network: Crystalformer, rattled_crystals: CrystalBatch
) -> None:
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    path = write(tmp_path / "e_form.ckpt", {"state_dict": state})
    torch.testing.assert_close(
        values(load(f"crystalformer:{path}"), rattled_crystals),
        expected(network, rattled_crystals, SMALL),
    )


def test_band_gaps_are_clipped_at_zero(
    tmp_path: Path, network: Crystalformer, rattled_crystals: CrystalBatch
) -> None:
    content = checkpoint(network)
    content["state_dict"]["target_mean"] -= 9
    path = write(tmp_path / "megnet-bandgap-layer7.ckpt", content)
    predictor = load(f"crystalformer:{path}")
    assert [(p.name, p.unit) for p in predictor.properties] == [("band_gap", "eV")]
    assert not values(predictor, rattled_crystals).any()


@pytest.mark.parametrize("file", ["default.json", "e_form.json"])
def test_the_parameter_file_sets_the_constants(
    tmp_path: Path, hash_fill: Fill, rattled_crystals: CrystalBatch, file: str
) -> None:
    config = replace(
        SMALL,
        decay_lengths=(1.4, 1.5),
        least_decay=0.4,
        decay_slope=0.2,
        radial_cutoff=9.0,
        radial_width=1.5,
        box=ImageBox(1, sigmas=3.0),
    )
    network = hash_fill(Crystalformer(config))
    path = write(tmp_path / "e_form.ckpt", checkpoint(network))
    (tmp_path / file).write_text(json.dumps(PARAMS))
    predictor = CrystalformerPredictor.load_official(str(path))
    assert predictor.network.config == config
    wanted = 1.5 * expected(network, rattled_crystals, config) - 0.5
    torch.testing.assert_close(values(predictor, rattled_crystals), wanted, atol=1e-6, rtol=0)


def test_fixed_images_as_smoacs_used_them(
    tmp_path: Path, network: Crystalformer, rattled_crystals: CrystalBatch
) -> None:
    path = write(tmp_path / "e_form.ckpt", checkpoint(network))
    predictor = load(f"crystalformer:{path}@fixed")
    assert predictor.name == "crystalformer:e_form@fixed"
    config = replace(SMALL, box=ImageBox(2, sigmas=None))
    wanted = 1.5 * expected(network, rattled_crystals, config) - 0.5
    found = values(predictor, rattled_crystals)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    adaptive = values(load(f"crystalformer:{path}"), rattled_crystals)
    assert (found - adaptive).abs().max() > 1e-6


def test_other_targets_are_named_by_the_user(tmp_path: Path, network: Crystalformer) -> None:
    path = write(tmp_path / "bulk.ckpt", checkpoint(network))
    with pytest.raises(ValueError, match=r"bulk\.ckpt does not say what it predicts"):
        load(f"crystalformer:{path}")
    target = Property("bulk_modulus", "GPa", 0.0, 500.0)
    assert CrystalformerPredictor.load_official(str(path), target=target).properties == (target,)


class Exploit:
    """An object that does something when it is unpickled: it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


class Settings(dict):
    """A class of the original's code, which smoacs does not have."""


def test_settings_of_any_class_are_skipped_and_no_code_runs(
    tmp_path: Path, network: Crystalformer
) -> None:
    harm = tmp_path / "harm"
    pickle.loads(pickle.dumps(Exploit(harm)))
    assert harm.is_dir()
    harm.rmdir()
    settings = Settings(seed=1)
    settings.nested = [Settings(), {Settings: Settings(a=torch.zeros(2))}, {Path(), 2.5}]
    content = checkpoint(network, hyper_parameters=settings, callbacks={"a": Exploit(harm)})
    path = write(tmp_path / "e_form.ckpt", content)
    load(f"crystalformer:{path}")
    assert not harm.exists()
    # Even where a tensor is expected.
    content["state_dict"]["swa_model.module.mlp.0.bias"] = Exploit(harm)
    with pytest.raises(ValueError, match=r"do not fit the model; missing: mlp\.0\.bias"):
        load(f"crystalformer:{write(path, content)}")
    assert not harm.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("state_dict"), "holds no state_dict"),
        (lambda c: c["state_dict"].clear(), "holds no Crystalformer"),
        (lambda c: c["state_dict"].pop("swa_model.module.mlp.3.bias"), r"missing: mlp\.3\.bias"),
        (
            lambda c: c["state_dict"][
                "swa_model.module.encoder.layers.0.self_attn.gauss_scale"
            ].zero_(),
            "never trained",
        ),
        (
            lambda c: c["state_dict"].pop("swa_model.module.encoder.layers.0.linear1.weight"),
            "does not describe a Crystalformer",
        ),
    ],
)
def test_other_checkpoints_are_refused(
    tmp_path: Path, network: Crystalformer, change: Callable, message: str
) -> None:
    content = checkpoint(network)
    change(content)
    path = write(tmp_path / "e_form.ckpt", content)
    with pytest.raises(ValueError, match=message):
        load(f"crystalformer:{path}")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"domain": "multihead"}, "domain must be real, got multihead"),
        ({"t_fixup_init": False}, "t_fixup_init must be True"),
        ({"positive_func": "exp"}, "positive_func must be elu=NUMBER"),
        ({"adaptive_cutoff_sigma": 3.5}, "must not be positive"),
        (["list"], "does not describe a Crystalformer"),
    ],
)
def test_other_networks_are_refused(
    tmp_path: Path, network: Crystalformer, params: object, message: str
) -> None:
    path = write(tmp_path / "e_form.ckpt", checkpoint(network))
    (tmp_path / "default.json").write_text(json.dumps(params))
    with pytest.raises(ValueError, match=message):
        load(f"crystalformer:{path}")


def test_incomplete_and_missing_files(tmp_path: Path, network: Crystalformer) -> None:
    path = write(tmp_path / "e_form.ckpt", checkpoint(network))
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="no complete checkpoint"):
            load(f"crystalformer:{path}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not a checkpoint")
    with pytest.raises(ValueError, match="no complete checkpoint"):
        load(f"crystalformer:{path}")
    with pytest.raises(FileNotFoundError, match="Google Drive"):
        load("crystalformer:megnet-e_form-layer4.ckpt")
    with pytest.raises(ValueError, match="no predictor"):
        load("crystalformer:")


def test_checkpoints_keep_the_contract(tmp_path: Path, network: Crystalformer) -> None:
    path = write(tmp_path / "megnet-e_form-layer4.ckpt", checkpoint(network))
    # With the original's two images, translations change these weights' values by 1e-9.
    (tmp_path / "default.json").write_text(json.dumps({"lattice_range": 3}))
    check_predictor(load(f"crystalformer:{path}"))
    check_predictor(load(f"crystalformer:{path}@fixed"))


CARD = {
    "properties": (
        PropertyCard(name="a", unit="", low=-1, high=1),
        PropertyCard(name="b", unit="", low=0, high=1, minimum=0),
    ),
    "elements": ("O", "Si", "Ti"),
    "training": {},
}


def test_bundles(tmp_path: Path, hash_fill: Fill, rattled_crystals: CrystalBatch) -> None:
    config = replace(SMALL, outputs=2, box=None, cutoff=6.0)
    network = hash_fill(Crystalformer(config))
    card = save_bundle(
        tmp_path,
        network,
        name="own",
        architecture={"kind": "crystalformer", **asdict(config)},
        graph=network.graph_spec(),
        **CARD,
    )
    predictor = load(card)
    assert isinstance(predictor, CrystalformerPredictor)
    assert predictor.network.config == config
    assert [p.name for p in predictor.properties] == ["a", "b"]
    assert predictor.elements == {8, 14, 22}
    found = predictor.predict(rattled_crystals, Graph.build(rattled_crystals, predictor.graph))
    assert found["b"].min() == 0
    check_predictor(predictor)


def test_a_bundle_with_another_graph_is_refused(tmp_path: Path, network: Crystalformer) -> None:
    card = save_bundle(
        tmp_path,
        network,
        name="own",
        architecture={"kind": "crystalformer", **asdict(replace(SMALL, outputs=2))},
        graph=GraphSpec(cutoff=5.0),
        **CARD,
    )
    with pytest.raises(ValueError, match=r"wrong shape: mlp\.3\.bias"):
        load(card)
    card = save_bundle(
        tmp_path,
        network,
        name="own",
        architecture={"kind": "crystalformer", **asdict(SMALL)},
        graph=GraphSpec(cutoff=5.0),
        **CARD,
    )
    with pytest.raises(ValueError, match=r"needs all neighbours within 12\.0 Å, not GraphSpec"):
        load(card)


def test_crystalformer_is_listed() -> None:
    assert "crystalformer:FILE" in [info.name for info in list_predictors()]
