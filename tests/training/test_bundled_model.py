"""The models that ship with smoacs are what their cards say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pymatgen.core.structure import Structure

from smoacs.crystals import CrystalBatch
from smoacs.predictors import load
from smoacs.predictors.base import Graph
from smoacs.predictors.prediction import predict
from smoacs.predictors.weights import bundled, read_card
from smoacs.structures_io import cell_matrix, read_records
from smoacs.testing import check_predictor
from smoacs.training.config import load_config

# Mean absolute errors on test crystals that each model must keep, in the units of its card.
PROMISED = {
    "smoacs-alignn-mp": {
        "formation_energy": 0.042,
        "band_gap": 0.235,
        "e_above_hull": 0.016,
        "bulk_modulus": 15.0,
    },
    "smoacs-crystalformer-mp": {
        "formation_energy": 0.032,
        "band_gap": 0.195,
        "e_above_hull": 0.014,
        "bulk_modulus": 9.5,
    },
    "smoacs-alignn-tc": {"tc": 3.4},
}
GENERAL = [name for name, errors in PROMISED.items() if "band_gap" in errors]


@pytest.fixture(scope="module", params=PROMISED)
def name(request):
    return request.param


@pytest.fixture(scope="module", params=GENERAL)
def general(request):
    """Name of a model of the Materials Project's properties."""
    return request.param


def card_of(name):
    return read_card(bundled()[name])


@pytest.fixture(scope="module")
def test_rows(shared):
    rows = read_records(shared / "data" / "mp_structures.jsonl.xz")
    return [row for row in rows if row["split"] == "test"]


def structures_of(rows) -> list[Structure]:
    return [Structure(cell_matrix(row), row["species"], row["frac_coords"]) for row in rows]


def test_nothing_ships_without_a_promise():
    assert set(bundled()) == set(PROMISED)
    weights = [card.with_suffix(".safetensors") for card in bundled().values()]
    assert sum(file.stat().st_size for file in weights) <= 25e6


def test_it_keeps_the_contract_of_predictors(name):
    check_predictor(load(name))


def test_it_is_as_accurate_as_promised(name):
    training = card_of(name).training
    errors = training["mean_absolute_error"]["test"]
    guesses = training["mean_absolute_deviation"]["test"]
    assert set(errors) == set(PROMISED[name])
    for prop, most in PROMISED[name].items():
        assert errors[prop] <= most
        assert errors[prop] <= (0.9 if prop == "tc" else 0.7) * guesses[prop]


def test_it_knows_strained_crystals(general):
    training = card_of(general).training
    errors = training["mean_absolute_error"]["strained_test"]
    guesses = training["mean_absolute_deviation"]["strained_test"]
    assert errors["formation_energy"] <= 0.15 * guesses["formation_energy"]
    assert errors["e_above_hull"] <= 0.7 * guesses["e_above_hull"]


def test_it_comes_from_the_committed_configuration(name, request):
    card = card_of(name)
    config = load_config(request.config.rootpath / "configs" / f"{name}.yaml")
    trained = card.training["configuration"]
    assert trained["epochs"] == config.epochs
    assert trained["optimizer"] == config.optimizer.model_dump()
    assert card.graph == config.graph.spec()
    assert [p.name for p in card.properties] == [t.name for t in config.targets]


@pytest.mark.external
def test_a_sample_of_test_crystals_has_the_error_of_the_card(test_rows, general):
    rows = test_rows[::4]
    found = predict(structures_of(rows), general)
    errors = card_of(general).training["mean_absolute_error"]["test"]
    for prop in ("formation_energy", "band_gap", "e_above_hull"):
        labels = np.array([row[prop] for row in rows])
        error = np.abs(found[prop].to_numpy() - labels).mean()
        assert error == pytest.approx(errors[prop], rel=0.35)


@pytest.mark.external
def test_its_domain_holds_real_crystals_and_no_squeezed_or_random_ones(test_rows, general):
    rows = test_rows[::10]
    real = structures_of(rows)
    rng = np.random.default_rng(0)
    strange = {
        kind: [Structure(s.lattice.scale(f * s.volume), s.species, s.frac_coords) for s in real]
        for kind, f in (("squeezed", 0.5), ("stretched", 2.5))
    }
    strange["random"] = [Structure(s.lattice, s.species, rng.random((len(s), 3))) for s in real]
    table = predict(real, general)
    assert table["in_domain"].mean() >= 0.95
    for kind, structures in strange.items():
        assert predict(structures, general)["in_domain"].mean() <= 0.1, kind
    labels = np.array([row["band_gap"] for row in rows])
    errors = np.abs(table["band_gap"].to_numpy() - labels)
    certain = table["band_gap_std"] < table["band_gap_std"].median()
    assert errors[certain].mean() < 0.3 * errors[~certain].mean()


def test_its_expected_errors_are_calibrated(name):
    """Larger ones mean larger errors, and few errors are far larger."""
    for prop, report in card_of(name).training["expected_errors_on_test"].items():
        assert report["rank_correlation"] >= (0.6 if prop == "band_gap" else 0.2)
        assert 0.55 <= report["within_1"] <= 0.93
        assert report["within_2"] >= 0.9


def test_it_stays_finite_far_from_any_real_crystal(general):
    """The design loop asks about squeezed, stretched and skewed cells of any elements."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, 120)
    sites = int(counts.sum())
    scale = rng.choice([1.0, 3.0, 8.0, 40.0], 120)[:, None, None]
    logits = torch.tensor(rng.normal(size=(sites, 98)) * rng.choice([0.1, 20.0], (sites, 1)))
    batch = CrystalBatch(
        torch.tensor(scale * (rng.normal(size=(120, 3, 3)) + 2 * np.eye(3))),
        torch.tensor(rng.random((sites, 3))).requires_grad_(),
        logits.softmax(1),
        torch.tensor([0, *counts.cumsum()]),
    )
    model = load(general)
    values = model.predict(batch, Graph.build(batch, model.graph))
    for prop, unit in (("formation_energy", 1.0), ("band_gap", 1.0), ("bulk_modulus", 100.0)):
        assert torch.isfinite(values[prop]).all()
        assert values[prop].abs().max() < 30 * unit
    assert (values["band_gap"] >= 0).all()
    (gradient,) = torch.autograd.grad(sum(v.sum() for v in values.values()), batch.frac_coords)
    assert torch.isfinite(gradient).all()
