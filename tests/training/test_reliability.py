from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from smoacs.chemistry.radii import site_radius
from smoacs.predictors.base import GraphSpec
from smoacs.training.config import load_config
from smoacs.training.data import concatenate, load_crystals
from smoacs.training.reliability import calibration, fit_domain, fit_errors

HIDDEN = 6


def make_features(count: int, seed: int) -> torch.Tensor:
    """Features of unequal spread and mean, as networks have them."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, HIDDEN, generator=generator, dtype=torch.float64)
    return normal * torch.tensor([0.1, 1.0, 3.0, 0.5, 1.0, 2.0]) + 1.0


def make_errors(sigma: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sigma * torch.randn(sigma.shape, generator=generator, dtype=torch.float64)


def test_leverage_is_that_of_linear_regression():
    """For ordinary least squares it is the diagonal of the hat matrix."""
    train = make_features(300, 1)
    model = fit_errors(train, train[:50], make_errors(torch.ones(50, 1), 2))
    hat = train @ np.linalg.pinv(train)
    torch.testing.assert_close(
        model.leverage(train.float()).double() ** 2, hat.diagonal(), rtol=1e-3, atol=1e-6
    )


def test_expected_errors_are_right_where_errors_depend_on_the_features():
    """Fitted on one half of made-up data, judged on the other, property by property."""
    train = make_features(4000, 3)
    slopes = torch.tensor([[0.0, 0.4, 0.1, 0, 0, 0], [0, 0, 0, 0.8, 0, -0.2]], dtype=torch.float64)
    leverage = fit_errors(train, train[:50], torch.ones(50, 1)).leverage(train.float()).double()
    sigma = leverage[:, None] * (train @ slopes.T).exp()
    errors = make_errors(sigma, 4)
    fitted, held_out = slice(0, 2000), slice(2000, None)
    model = fit_errors(train, train[fitted], errors[fitted])
    expected = model(train[held_out].float())
    report = calibration(["a", "b"], errors[held_out], expected)
    for part in report.values():
        assert part["rank_correlation"] > 0.3
        assert part["within_1"] == pytest.approx(0.75, abs=0.1)
        assert part["within_2"] == pytest.approx(0.97, abs=0.03)
        for fifth in part["fifths"]:
            assert fifth["expected"] == pytest.approx(fifth["true"], rel=0.7)
        assert part["fifths"][-1]["true"] > 2.5 * part["fifths"][0]["true"]


def test_missing_labels_count_for_nothing():
    train = make_features(200, 5)
    errors = make_errors(torch.ones(100, 2), 6)
    errors[60:, 1] = torch.nan
    model = fit_errors(train, train[:100], errors)
    alone = fit_errors(train, train[:60], errors[:60, 1:])
    torch.testing.assert_close(model(train.float())[:, 1:], alone(train.float()))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_labels_give_finite_numbers(count):
    train = make_features(200, 7)
    errors = torch.zeros(count, 2, dtype=torch.float64)
    errors[:, 1] = 0.3
    expected = fit_errors(train, train[:count], errors)(train.float())
    assert torch.isfinite(expected).all()
    assert (expected[:, 0] < 1e-6).all()
    assert (expected[:, 1] > 0.01).all()


def test_far_features_are_less_certain_and_the_factor_is_not_extrapolated():
    train = make_features(500, 8)
    slope = torch.tensor([0.0, -1.0, 0, 0, 0, 0], dtype=torch.float64)
    model = fit_errors(train, train, make_errors((train @ slope).exp()[:, None], 9))
    far = torch.ones(1, HIDDEN) + torch.tensor([[0.0, 100.0, 0, 0, 0, 0]])
    near = train.mean(0, keepdim=True).float()
    assert model.leverage(far) > 10 * model.leverage(near)
    assert model(far) > model.leverage(far) * model.low.exp() * 0.999


def test_calibration_of_a_known_distribution():
    sigma = torch.linspace(0.5, 5.0, 20000, dtype=torch.float64)[:, None]
    errors = make_errors(sigma, 10)
    errors[::7] = torch.nan
    report = calibration(
        ["x", "empty"], torch.cat([errors, errors * torch.nan], 1), sigma.expand(-1, 2)
    )
    assert set(report) == {"x"}
    assert report["x"]["within_1"] == pytest.approx(0.683, abs=0.01)
    assert report["x"]["within_2"] == pytest.approx(0.954, abs=0.01)
    assert [f["expected"] for f in report["x"]["fifths"]] == pytest.approx(
        [f["true"] for f in report["x"]["fifths"]], rel=0.05
    )


def test_domain_holds_nearly_all_training_crystals(raw_config, write_config, monkeypatch):
    monkeypatch.setattr("smoacs.training.reliability.FEW_CRYSTALS", 6)
    monkeypatch.setattr("smoacs.training.reliability.BEYOND", 0.0)
    crystals = load_crystals(load_config(write_config(raw_config)))
    spec = GraphSpec(cutoff=6.0, k=6, rule="knn_shell", tie_tolerance=0.01)
    domain = fit_domain(crystals, spec)
    structures = crystals.batch().to_structures()
    contacts, volumes = [], []
    for structure in structures:
        radii = np.array([site_radius(site.specie.Z, 0) for site in structure])
        src, dst, _, distance = structure.get_neighbor_list(8.0)
        contacts.append((distance / (radii[src] + radii[dst])).min())
        volumes.append(
            structure.volume / sum(domain.atomic_volumes[s.specie.symbol] for s in structure)
        )
    assert domain.contact == pytest.approx(min(contacts))
    assert domain.volume == pytest.approx((min(volumes), max(volumes)), rel=1e-3)
    assert 0.1 < min(volumes) < 1 < max(volumes) < 10


def test_volumes_of_the_elements_are_found_again(raw_config, write_config):
    """Cells as large as the sum of made-up volumes of their atoms."""
    crystals = load_crystals(load_config(write_config(raw_config)))
    true = {"Li": 10.0, "Na": 20.0, "K": 30.0, "Rb": 40.0, "F": 12.0, "Cl": 25.0, "Br": 32.0}
    volume = [
        sum(true[site.specie.symbol] for site in structure)
        for structure in crystals.batch().to_structures()
    ]
    edge = np.cbrt(np.array(volume) / np.abs(np.linalg.det(crystals.lattice)))
    many = concatenate([replace(crystals, lattice=crystals.lattice * edge[:, None, None])] * 20)
    domain = fit_domain(many, GraphSpec(cutoff=6.0, k=6, rule="knn_shell"))
    # Every crystal holds one cation and one anion, so that only sums are determined.
    for cation, anion in itertools.product(("Li", "Na", "K", "Rb"), ("F", "Cl", "Br")):
        found = domain.atomic_volumes[cation] + domain.atomic_volumes[anion]
        assert found == pytest.approx(true[cation] + true[anion], rel=0.03)
    assert domain.volume == pytest.approx((1.0, 1.0), rel=0.03)


def test_rare_elements_are_not_in_the_domain(raw_config, write_config, monkeypatch):
    monkeypatch.setattr("smoacs.training.reliability.FEW_CRYSTALS", 7)
    crystals = load_crystals(load_config(write_config(raw_config)))  # 6 of each cation
    domain = fit_domain(crystals, GraphSpec(cutoff=6.0, k=6, rule="knn_shell"))
    assert domain.atomic_volumes.keys() == {"F", "Cl", "Br"}
