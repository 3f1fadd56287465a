"""Fit, after training, how far a model's predictions can be trusted; report how true that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoacs.chemistry.elements import symbol
from smoacs.crystals import N_ELEMENTS
from smoacs.predictors.base import Graph, GraphSpec
from smoacs.predictors.domain import Domain, closest_contact
from smoacs.predictors.last_layer import LastLayerError
from smoacs.training.data import LabelledCrystals

FEW_CRYSTALS = 20
"""Elements in fewer training crystals are hardly known."""
BEYOND = 5e-3
"""Share of the training crystals that may lie beyond each limit of the domain."""

_RELATIVE_FLOOR = 1e-6  # s^2, in units of the mean square of the training features
_RIDGE = 0.2  # per validation crystal, for features of unit variance
_ZERO = 1e-9
_SMALL_ERROR = 0.2  # in units of the mean; smaller errors all count as small


def fit_errors(train: Tensor, val: Tensor, errors: Tensor) -> LastLayerError:
    """Model of the expected error of a network's predictions.

    The logarithm of the errors of the validation crystals, over the leverage, is fitted by a ridge
    regression on the features. Then the predicted errors of each property are scaled so that the
    true ones are as large in the root mean square of their ratios, where each crystal is predicted
    without its own error.

    Parameters
    ----------
    train : Tensor (N, H), float
        Features of the training crystals that the last layer reads.
    val : Tensor (M, H), float
        Features of the validation crystals.
    errors : Tensor (M, P), float
        Of the predictions for the validation crystals; NaN where there is no label.
    """
    train, val, errors = train.double().cpu(), val.double().cpu(), errors.double().cpu()
    covariance = train.T @ train
    floor = _RELATIVE_FLOOR * covariance.diagonal().mean()
    precision = torch.linalg.inv(covariance + floor * torch.eye(len(covariance)))
    whitening = torch.linalg.cholesky(precision)
    leverage = (val @ whitening).norm(dim=1)
    spread = train.std(dim=0).clamp_min(1e-6)
    fits = [
        _fit_alpha(val[known] / spread, leverage[known], column[known].abs())
        for column, known in zip(errors.T, ~errors.T.isnan(), strict=True)
    ]
    weight, bias, low, high = (torch.stack(parts) for parts in zip(*fits, strict=True))
    tensors = (whitening, weight / spread, bias, low, high)
    return LastLayerError(*(tensor.float() for tensor in tensors))


def _fit_alpha(
    features: Tensor, leverage: Tensor, errors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight (H,), bias, low and high of one property, see :class:`LastLayerError`."""
    wanted = torch.log((errors + _SMALL_ERROR * errors.mean()).clamp_min(_ZERO) / leverage)
    mean, centred = features.mean(dim=0), features - features.mean(dim=0)
    ridge = _RIDGE * len(errors) * torch.eye(features.shape[1])
    solve = torch.linalg.solve(centred.T @ centred + ridge, centred.T)
    weight = solve @ (wanted - wanted.mean())
    fitted = wanted.mean() + centred @ weight
    influence = (centred * solve.T).sum(dim=1) + 1 / len(errors)
    without_own = wanted - (wanted - fitted) / (1 - influence).clamp_min(0.1)
    expected = leverage * without_own.exp()
    scale = torch.log(_root_mean_square(errors / expected).clamp_min(_ZERO))
    return weight, wanted.mean() - mean @ weight + scale, fitted.min() + scale, fitted.max() + scale


def fit_domain(crystals: LabelledCrystals, spec: GraphSpec) -> Domain:
    """Limits that nearly all crystals keep.

    Parameters
    ----------
    crystals : LabelledCrystals
        C crystals that the model was trained on.
    spec : GraphSpec
        Graph of the model.
    """
    contacts = []
    for part in crystals.parts():
        batch = part.batch()
        contacts.append(closest_contact(batch, Graph.build(batch, spec).neighbors))
    volume = np.abs(np.linalg.det(crystals.lattice))
    counts = _element_counts(crystals)
    atomic = _atomic_volumes(counts, volume)
    ratio = volume / (counts @ atomic)
    common = np.flatnonzero((counts > 0).sum(axis=0) >= FEW_CRYSTALS)
    return Domain(
        atomic_volumes={symbol(z + 1): round(float(atomic[z]), 2) for z in common.tolist()},
        volume=(float(np.quantile(ratio, BEYOND)), float(np.quantile(ratio, 1 - BEYOND))),
        contact=float(np.quantile(torch.cat(contacts).numpy(), BEYOND)),
    )


def _element_counts(crystals: LabelledCrystals) -> NDArray[np.float64]:
    """Atoms of each element in each crystal, (C, 98)."""
    counts = np.zeros((len(crystals), N_ELEMENTS))
    owner = np.repeat(np.arange(len(crystals)), crystals.n_sites)
    np.add.at(counts, (owner, crystals.atomic_numbers - 1), 1.0)
    return counts


def _atomic_volumes(
    counts: NDArray[np.float64], volume: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Volumes (98,) of the elements in Å^3 whose sums come closest to those of the cells (C,).

    Relative deviations count, and elements are held to the mean of all as if one crystal of each
    had it.
    """
    mean = float(np.mean(volume / counts.sum(axis=1)))
    shares = counts * (mean / volume)[:, None]
    system = np.vstack([shares, np.eye(N_ELEMENTS)])
    wanted = np.concatenate([np.ones(len(volume)), np.ones(N_ELEMENTS)])
    # A few elements, such as H in metals, take up hardly any room.
    return mean * np.clip(np.linalg.lstsq(system, wanted, rcond=None)[0], 0.1, None)


def calibration(names: Sequence[str], errors: Tensor, expected: Tensor) -> dict[str, object]:
    """How well expected errors describe true ones, by property.

    Parameters
    ----------
    names : sequence of str, length P
    errors : Tensor (C, P), float
        NaN where there is no label.
    expected : Tensor (C, P), float

    Returns
    -------
    dict
        By property: rank correlation of the expected and the absolute errors, share of the errors
        within one and two expected ones, and for fifths of the crystals in the order of the
        expected error, its root mean square and that of the true one.
    """
    return {
        name: _calibration(column[known].abs(), sigma[known])
        for name, column, sigma, known in zip(
            names, errors.T.double(), expected.T.double(), ~errors.T.isnan(), strict=True
        )
        if known.sum() >= 10
    }


def _calibration(errors: Tensor, expected: Tensor) -> dict[str, object]:
    import pandas as pd

    ranks = pd.DataFrame({"expected": expected.numpy(), "true": errors.numpy()}).rank()
    fifths = expected.argsort().tensor_split(5)
    return {
        "rank_correlation": round(float(ranks["expected"].corr(ranks["true"])), 3),
        "within_1": round(float((errors <= expected).double().mean()), 3),
        "within_2": round(float((errors <= 2 * expected).double().mean()), 3),
        "fifths": [
            {
                "expected": round(float(_root_mean_square(expected[part])), 4),
                "true": round(float(_root_mean_square(errors[part])), 4),
            }
            for part in fifths
        ],
    }


def _root_mean_square(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()
