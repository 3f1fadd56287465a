"""The model that ships with smoacs is what its card says."""

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
from smoacs.training.config import load_config

NAME = "smoacs-alignn-mp"


@pytest.fixture(scope="module")
def card():
    return read_card(bundled()[NAME])


def test_it_is_as_accurate_as_promised_and_small(card):
    errors = card.training["mean_absolute_error"]["test"]
    assert errors["formation_energy"] <= 0.05
    assert errors["band_gap"] <= 0.27
    assert bundled()[NAME].with_suffix(".safetensors").stat().st_size <= 4e6


def test_it_comes_from_the_committed_configuration(card, request):
    config = load_config(request.config.rootpath / "configs" / f"{NAME}.yaml")
    trained = card.training["configuration"]
    assert trained["epochs"] == config.epochs
    assert trained["optimizer"] == config.optimizer.model_dump()
    assert card.graph == config.graph.spec()
    assert [p.name for p in card.properties] == [t.name for t in config.targets]


@pytest.mark.external
def test_a_sample_of_test_crystals_has_the_error_of_the_card(shared, card):
    rows = [
        row
        for row in read_records(shared / "data" / "mp_structures.jsonl.xz")
        if row["split"] == "test"
    ][::4]
    structures = [Structure(cell_matrix(row), row["species"], row["frac_coords"]) for row in rows]
    found = predict(structures, NAME)
    for name, allowance in (("formation_energy", 0.015), ("band_gap", 0.06)):
        labels = np.array([row[name] for row in rows])
        error = np.abs(found[name].to_numpy() - labels).mean()
        assert error == pytest.approx(
            card.training["mean_absolute_error"]["test"][name], abs=allowance
        )


@pytest.mark.external
def test_its_domain_holds_real_crystals_and_no_squeezed_or_random_ones(shared):
    rows = [
        row
        for row in read_records(shared / "data" / "mp_structures.jsonl.xz")
        if row["split"] == "test"
    ][::10]
    real = [Structure(cell_matrix(row), row["species"], row["frac_coords"]) for row in rows]
    rng = np.random.default_rng(0)
    strange = {
        kind: [Structure(s.lattice.scale(f * s.volume), s.species, s.frac_coords) for s in real]
        for kind, f in (("squeezed", 0.5), ("stretched", 2.5))
    }
    strange["random"] = [Structure(s.lattice, s.species, rng.random((len(s), 3))) for s in real]
    table = predict(real, NAME)
    assert table["in_domain"].mean() >= 0.95
    for kind, structures in strange.items():
        assert predict(structures, NAME)["in_domain"].mean() <= 0.1, kind
    labels = np.array([row["band_gap"] for row in rows])
    errors = np.abs(table["band_gap"].to_numpy() - labels)
    certain = table["band_gap_std"] < table["band_gap_std"].median()
    assert errors[certain].mean() < 0.3 * errors[~certain].mean()


def test_its_expected_errors_are_calibrated(card):
    for name, ranks in (("formation_energy", 0.2), ("band_gap", 0.6)):
        report = card.training["expected_errors_on_test"][name]
        assert report["rank_correlation"] >= ranks
        assert 0.6 <= report["within_1"] <= 0.9
        assert report["within_2"] >= 0.9
        for fifth in report["fifths"]:
            assert fifth["expected"] == pytest.approx(fifth["true"], rel=0.5)


def test_it_stays_finite_far_from_any_real_crystal():
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
    model = load(NAME)
    values = model.predict(batch, Graph.build(batch, model.graph))
    for name in ("formation_energy", "band_gap"):
        assert torch.isfinite(values[name]).all()
        assert values[name].abs().max() < 30
    assert (values["band_gap"] >= 0).all()
    (gradient,) = torch.autograd.grad(sum(v.sum() for v in values.values()), batch.frac_coords)
    assert torch.isfinite(gradient).all()
