"""MEGNet against numbers of the original implementation with the published weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from smoacs.crystals import CrystalBatch
from smoacs.ops import edge_vectors
from smoacs.predictors import load
from smoacs.predictors.base import Graph, Property
from smoacs.predictors.megnet import ELEMENTS, FIDELITIES, MEGNet, MEGNetConfig, MEGNetPredictor
from smoacs.testing import check_predictor

EFORM, GAP = "MEGNet-MP-2018.6.1-Eform", "MEGNet-MP-2019.4.1-BandGap-mfi"
DESCRIPTION = {
    "kwargs": {
        "model": {
            "init_args": {
                "dim_node_embedding": 16,
                "dim_edge_embedding": 100,
                "dim_state_embedding": 2,
                "ntypes_state": None,
                "nblocks": 2,
                "hidden_layer_sizes_input": [64, 32],
                "hidden_layer_sizes_conv": [64, 64, 32],
                "hidden_layer_sizes_output": [32, 16],
                "nlayers_set2set": 1,
                "niters_set2set": 3,
                "activation_type": "softplus2",
                "is_classification": False,
                "include_state": True,
                "element_types": None,
                "cutoff": 4.0,
                "gauss_width": 0.5,
            }
        },
        "target_transformer": "Normalizer: Mean=-1.5, Std: 0.5",
    }
}
TARGET = Property("formation_energy", "eV/atom", -5.0, 5.0)

Fill = Callable[[nn.Module], nn.Module]


@pytest.fixture(scope="module")
def entries(reference: Callable[[str], dict]) -> list[dict]:
    return reference("megnet_outputs.json")


@pytest.fixture(scope="module")
def crystals(entries: list[dict]) -> CrystalBatch:
    from pymatgen.core import Structure

    structures = [Structure(e["lattice"], e["species"], e["frac"]) for e in entries]
    return CrystalBatch.from_structures(structures, dtype=torch.float64)


def raw(predictor: MEGNetPredictor, crystals: CrystalBatch, state: int | None) -> Tensor:
    """Outputs of the network itself, which may be negative."""
    graph = Graph.build(crystals, predictor.graph)
    network = predictor.network
    features = crystals.composition @ network.element_table()
    vectors = edge_vectors(crystals.frac_coords, crystals.lattice, graph.neighbors)
    return network(features, vectors, graph.neighbors, crystals.ptr, state)[:, 0]


@pytest.mark.external
@pytest.mark.parametrize(("name", "key", "state"), [(EFORM, "eform", None), (GAP, "gap", 0)])
def test_published_weights_reproduce_the_original(
    shared: Path,
    entries: list[dict],
    crystals: CrystalBatch,
    name: str,
    key: str,
    state: int | None,
) -> None:
    predictor = load(f"megnet:{shared / 'weights' / name}").to(dtype=torch.float64)
    lattice = crystals.lattice.clone().requires_grad_()
    coords = crystals.frac_coords.clone().requires_grad_()
    values = raw(predictor, replace(crystals, lattice=lattice, frac_coords=coords), state)
    expected = torch.tensor([e[f"{key}_f64"] for e in entries], dtype=torch.float64)
    torch.testing.assert_close(values.detach(), expected, atol=1e-11, rtol=0)
    gradients = torch.autograd.grad(values.sum(), (lattice, coords))
    for gradient, suffix in zip(gradients, ("grad_lattice", "grad_frac"), strict=True):
        rows = [torch.tensor(e[f"{key}_{suffix}"], dtype=torch.float64) for e in entries]
        torch.testing.assert_close(gradient.reshape(-1, 3), torch.cat(rows), atol=1e-9, rtol=0)


@pytest.mark.external
@pytest.mark.parametrize(("name", "key", "state"), [(EFORM, "eform", None), (GAP, "gap", 0)])
def test_single_precision(
    shared: Path,
    entries: list[dict],
    crystals: CrystalBatch,
    name: str,
    key: str,
    state: int | None,
) -> None:
    predictor = load(f"megnet:{shared / 'weights' / name}")
    found = raw(predictor, crystals.to(dtype=torch.float32), state)
    expected = torch.tensor([e[f"{key}_f32"] for e in entries])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.external
def test_fidelities(shared: Path, entries: list[dict], crystals: CrystalBatch) -> None:
    folder = shared / "weights" / GAP
    for number, fidelity in enumerate(FIDELITIES):
        predictor = load(f"megnet:{folder}@{fidelity}").to(dtype=torch.float64)
        assert predictor.name == f"megnet:{GAP}" + ("" if number == 0 else f"@{fidelity}")
        found = predictor.predict(crystals, Graph.build(crystals, predictor.graph))["band_gap"]
        expected = torch.tensor([e["gap_fidelities_f64"][number] for e in entries]).double()
        # The network itself gives small negative gaps of metals.
        assert number > 0 or expected.min() < 0
        torch.testing.assert_close(found, expected.clamp(min=0), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="fidelity must be one of PBE, GLLB-SC, HSE, SCAN"):
        MEGNetPredictor.load(str(folder), fidelity="LDA")


@pytest.mark.external
def test_errors_on_labelled_crystals_are_small(
    shared: Path, entries: list[dict], crystals: CrystalBatch
) -> None:
    """With three Set2Set iterations, or messages averaged at the source, they are far larger."""
    for name, key, limit in ((EFORM, "eform", 0.012), (GAP, "gap", 0.06)):
        predictor = load(f"megnet:{shared / 'weights' / name}").to(dtype=torch.float64)
        [found] = predictor.predict(crystals, Graph.build(crystals, predictor.graph)).values()
        labels = torch.tensor([e[f"label_megnet_{key}"] for e in entries])
        assert (found - labels).abs().mean() < limit


@pytest.mark.external
@pytest.mark.parametrize("name", [EFORM, GAP])
def test_published_models_keep_the_contract(shared: Path, name: str) -> None:
    predictor = load(f"megnet:{shared / 'weights' / name}")
    assert predictor.elements == set(ELEMENTS)
    check_predictor(predictor)


@pytest.mark.external
def test_published_models_load_by_name_from_the_cache(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOACS_CACHE", str(tmp_path))
    monkeypatch.setenv("SMOACS_OFFLINE", "1")
    (tmp_path / "megnet").mkdir()
    (tmp_path / "megnet" / EFORM).symlink_to(shared / "weights" / EFORM)
    assert load(f"megnet:{EFORM}").name == f"megnet:{EFORM}"


def write_folder(folder: Path, network: MEGNet, description: object = DESCRIPTION) -> Path:
    folder.mkdir()
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save(state, folder / "state.pt")
    (folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def network(hash_fill: Fill) -> MEGNet:
    return hash_fill(MEGNet(MEGNetConfig(n_blocks=2)))


def changed(**arguments: object) -> dict:
    kwargs = DESCRIPTION["kwargs"]
    model = {"init_args": kwargs["model"]["init_args"] | arguments}
    return {"kwargs": kwargs | {"model": model}}


def test_own_models_load_with_what_their_description_says(tmp_path: Path, network: MEGNet) -> None:
    folder = write_folder(tmp_path / "own", network)
    predictor = MEGNetPredictor.load(str(folder), target=TARGET)
    assert predictor.properties == (TARGET,)
    assert predictor.network.config == MEGNetConfig(
        n_blocks=2, set2set_iterations=3, mean=-1.5, std=0.5
    )
    assert predictor.graph.cutoff == pytest.approx(4.0)
    check_predictor(predictor)


def test_own_models_need_a_target(tmp_path: Path, network: MEGNet) -> None:
    folder = write_folder(tmp_path / "own", network)
    with pytest.raises(ValueError, match=r"target=Property"):
        load(f"megnet:{folder}")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (changed(activation_type="tanh"), "activation_type must be softplus2, got tanh"),
        (changed(nblocks=3), "do not fit the model; missing: blocks.2"),
        ({"kwargs": {}}, "does not describe a MEGNet"),
        ([], "does not describe a MEGNet"),
    ],
)
def test_other_descriptions_are_refused(
    tmp_path: Path, network: MEGNet, description: object, message: str
) -> None:
    folder = write_folder(tmp_path / "own", network, description)
    with pytest.raises(ValueError, match=message):
        MEGNetPredictor.load(str(folder), target=TARGET)


@pytest.mark.parametrize("file", ["state.pt", "model.json"])
def test_a_missing_file_is_named(tmp_path: Path, network: MEGNet, file: str) -> None:
    folder = write_folder(tmp_path / "own", network)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"own/{file}.*huggingface"):
        load(f"megnet:{folder}")


def test_cells_without_edges_have_no_value_and_touch_no_other(
    network: MEGNet, rattled_crystals: CrystalBatch
) -> None:
    predictor = MEGNetPredictor("test", network, TARGET, cutoff=4.0)
    crystals = rattled_crystals.select([0, 1, 2]).to(dtype=torch.float32)
    lattice = crystals.lattice.clone()
    lattice[1] = 30 * torch.eye(3)
    lattice.requires_grad_()
    sparse = replace(crystals, lattice=lattice)

    def predict(batch: CrystalBatch) -> Tensor:
        return predictor.predict(batch, Graph.build(batch, predictor.graph))["formation_energy"]

    values = predict(sparse)
    assert values.isnan().tolist() == [False, True, False]
    alone = predict(sparse.select([0, 2]))
    assert torch.equal(values[[0, 2]], alone)
    [together] = torch.autograd.grad(values.sum(), lattice)
    [apart] = torch.autograd.grad(alone.sum(), lattice)
    assert torch.equal(together[[0, 2]], apart[[0, 2]])
    assert torch.equal(together[1], torch.zeros(3, 3))
    assert predict(sparse.select([1])).isnan().all()


def test_elements() -> None:
    assert len(ELEMENTS) == 89
    table = MEGNet(MEGNetConfig()).element_table()
    known = {z for z in range(1, 99) if table[z - 1].any()}
    assert known == set(ELEMENTS)
    assert {83, 89, 94} <= known
    assert not {84, 85, 86, 87, 88, 95} & known
