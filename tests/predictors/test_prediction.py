"""Properties of structures as a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from smoacs.crystals import CrystalBatch
from smoacs.predictors import predict
from smoacs.predictors.base import Property
from smoacs.predictors.megnet import MEGNet, MEGNetConfig, MEGNetPredictor


@pytest.fixture(scope="module")
def predictor(hash_fill: Callable[[nn.Module], nn.Module]) -> MEGNetPredictor:
    network = hash_fill(MEGNet(MEGNetConfig(n_blocks=1)))
    return MEGNetPredictor(
        "test", network, Property("formation_energy", "eV/atom", -9.0, 9.0), cutoff=4.0
    )


def test_structures_and_atoms_give_the_same_table(
    predictor: MEGNetPredictor, rattled_crystals: CrystalBatch
) -> None:
    structures = rattled_crystals.to_structures()
    table = predict(structures, predictor)
    assert list(table.columns) == ["formation_energy"]
    assert len(table) == len(structures)
    assert table["formation_energy"].dtype == np.float32
    assert table["formation_energy"].nunique() > 1
    from_atoms = predict([s.to_ase_atoms(msonable=False) for s in structures], predictor)
    np.testing.assert_allclose(from_atoms["formation_energy"], table["formation_energy"], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_batch_size_does_not_matter(
    predictor: MEGNetPredictor, rattled_crystals: CrystalBatch, batch_size: int
) -> None:
    structures = rattled_crystals.to_structures()
    table = predict(structures, predictor, batch_size=batch_size)
    assert table.equals(predict(structures, predictor))


def test_unknown_elements_leave_a_gap(
    predictor: MEGNetPredictor, rattled_crystals: CrystalBatch
) -> None:
    structures = rattled_crystals.to_structures()
    expected = predict(structures, predictor)
    structures[3] = structures[3].copy()
    structures[3].replace(0, "Ra")
    with pytest.warns(UserWarning, match=r"does not know Ra.* 1 of 12 .*number 3"):
        table = predict(structures, predictor)
    assert table["formation_energy"].isna().tolist() == [number == 3 for number in range(12)]
    assert table.drop(3).equals(expected.drop(3))


def test_bad_arguments(predictor: MEGNetPredictor, rattled_crystals: CrystalBatch) -> None:
    with pytest.raises(ValueError, match="at least one structure"):
        predict([], predictor)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict(rattled_crystals.to_structures(), predictor, batch_size=0)


def test_no_gradient_is_recorded(
    predictor: MEGNetPredictor, rattled_crystals: CrystalBatch
) -> None:
    with torch.enable_grad():
        assert not predict(rattled_crystals.to_structures(), predictor).isna().any().any()
