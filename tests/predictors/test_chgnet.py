"""CHGNet against its own package."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure

from smoacs.crystals import CrystalBatch
from smoacs.predictors import load, predict
from smoacs.predictors.base import Graph
from smoacs.predictors.chgnet import DEFAULT, ELEMENTS, VERSIONS, CHGNetPredictor, references
from smoacs.testing import check_predictor

CHGNet = pytest.importorskip("chgnet.model.model", reason="chgnet is not installed").CHGNet

FCC = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def structures() -> list[Structure]:
    """From one atom in a cell below the cutoff to bonds that are all too long for pairs."""
    copper = Structure(Lattice(3.6 * torch.tensor(FCC).numpy()), ["Cu"], [[0.1, 0.2, 0.3]])
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    titanate = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]
    )
    skewed = titanate.copy().perturb(0.2, seed=1)
    skewed.lattice = Lattice.from_parameters(3.8, 4.1, 5.0, 75, 100, 118)
    iodide = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(4.6), ["Cs", "I"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    return [copper, salt, titanate, skewed, iodide]


@pytest.mark.parametrize("version", sorted(VERSIONS))
def test_energies_of_the_package(version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = CHGNet.load(model_name=version, use_device="cpu", verbose=False)
        expected = [float(original.predict_structure(s, task="e")["e"]) for s in structures()]
    found = predict(structures(), CHGNetPredictor.load(version))["energy"].tolist()
    if version == "0.2.0":  # says nothing without pairs of bonds
        assert found.pop() != found
        expected.pop()
    assert found == pytest.approx(expected, abs=1e-5)


def test_gradients_are_forces_and_stress_of_the_package() -> None:
    crystal = structures()[3]
    original = CHGNet.load(use_device="cpu", verbose=False)
    expected = original.predict_structure(crystal, task="efs")
    batch = CrystalBatch.from_structures([crystal], dtype=torch.float32)
    shift = torch.zeros(5, 3, requires_grad=True)
    strain = torch.zeros(3, 3, requires_grad=True)
    lattice = batch.lattice @ (torch.eye(3) + strain)
    coords = batch.frac_coords + shift @ torch.linalg.inv(batch.lattice[0])
    moved = CrystalBatch(lattice, coords, batch.composition, batch.ptr)
    predictor = load("chgnet")
    energy = 5 * predictor.predict(moved, Graph.build(moved, predictor.graph))["energy"].sum()
    force, virial = torch.autograd.grad(-energy, [shift, strain])
    stress = -virial / crystal.volume * 160.21766208
    torch.testing.assert_close(force, torch.tensor(expected["f"]), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(stress, torch.tensor(expected["s"]), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("version", [DEFAULT, "0.2.0"])
def test_it_keeps_the_contract(version: str) -> None:
    check_predictor(load(f"chgnet:{version}"))


def test_names_and_properties() -> None:
    assert load("chgnet").name == load(f"chgnet:{DEFAULT}").name == "chgnet"
    predictor = load("chgnet:r2scan")
    assert predictor.name == "chgnet:r2scan"
    assert [(p.name, p.unit) for p in predictor.properties] == [
        ("energy", "eV/atom"),
        ("formation_energy", "eV/atom"),
    ]
    assert predictor.elements == ELEMENTS
    with pytest.raises(ValueError, match=r"no CHGNet '0\.3\.1' \(did you mean 0\.3\.0"):
        load("chgnet:0.3.1")


def test_formation_energies() -> None:
    values = predict(structures()[:3], "chgnet")["formation_energy"]
    assert values[0] == pytest.approx(0, abs=0.1)  # copper
    assert values[1] == pytest.approx(-2.1, abs=0.1)  # rock salt, Materials Project mp-22862
    assert values[2] == pytest.approx(-3.55, abs=0.1)  # strontium titanate, mp-5229
    energies = references()[DEFAULT].energies
    assert {z for z in range(1, 99) if energies[z - 1] != 0} == ELEMENTS


def test_an_isolated_atom_has_no_energy() -> None:
    lonely = Structure(Lattice.cubic(9), ["Ar"], [[0, 0, 0]])
    found = predict([structures()[1], lonely], "chgnet")["energy"]
    assert found.isna().tolist() == [False, True]


def test_files_of_the_trainer(tmp_path: Path) -> None:
    network = load("chgnet").network
    content = {"model": {"state_dict": network.state_dict(), "model_args": network.model_args}}
    path = tmp_path / "mine.pth.tar"
    torch.save(content, path)
    predictor = load(f"chgnet:{path}")
    assert [p.name for p in predictor.properties] == ["energy"]
    content["model"]["state_dict"].pop("mlp.layers.0.bias")
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"do not fit the model; missing: mlp\.layers\.0\.bias"):
        load(f"chgnet:{path}")
    torch.save({"weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="holds no CHGNet"):
        load(f"chgnet:{path}")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"mine\.pth\.tar is"):
        load(f"chgnet:{path}")
