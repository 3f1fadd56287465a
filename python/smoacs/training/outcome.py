"""What a finished network makes of crystals with known labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smoacs.predictors.last_layer import inputs_of
from smoacs.predictors.reliability import Reliability
from smoacs.training.config import TargetConfig, TrainingConfig
from smoacs.training.data import TrainingData
from smoacs.training.graphs import PackedGraphs
from smoacs.training.networks import Network, run_network
from smoacs.training.reliability import fit_domain, fit_errors


@dataclass(frozen=True)
class Outcome:
    """Predictions for C crystals.

    Attributes
    ----------
    predictions, targets : Tensor (C, P), float32
        In the targets' units, clipped at their lower bounds; labels are NaN where missing.
    features : Tensor (C, H), float32
        What the last layer read.
    """

    predictions: Tensor
    targets: Tensor
    features: Tensor

    @classmethod
    def of(
        cls,
        network: Network,
        graphs: PackedGraphs,
        atom_features: Tensor,
        targets: Sequence[TargetConfig],
    ) -> Outcome:
        """Run a network whose outputs are in the targets' units."""
        with inputs_of(network.readout) as features:
            outputs = run_network(network, graphs, atom_features)
        minima = [-torch.inf if target.minimum is None else target.minimum for target in targets]
        return cls(
            torch.maximum(outputs, outputs.new_tensor(minima)).cpu(),
            graphs.targets.cpu(),
            torch.cat(features).cpu(),
        )

    @property
    def errors(self) -> Tensor:
        """Prediction minus label, (C, P); NaN where there is no label."""
        return self.predictions - self.targets


def mean_absolute_errors(
    config: TrainingConfig, outcomes: Mapping[str, Outcome]
) -> dict[str, dict[str, float]]:
    """By held-out split and target; targets without a label are left out."""
    return {
        split: {
            target.name: float(mean)
            for target, mean in zip(
                config.targets, outcomes[split].errors.abs().nanmean(0), strict=True
            )
            if torch.isfinite(mean)
        }
        for split in ("val", "test", "strained_test")
        if split in outcomes
    }


def fit_reliability(
    config: TrainingConfig, data: TrainingData, outcomes: Mapping[str, Outcome]
) -> Reliability:
    """Expected errors and domain of a network.

    Parameters
    ----------
    config : TrainingConfig
    data : TrainingData
    outcomes : mapping from split to Outcome
        ``train`` is that of ``data.learned``.
    """
    learned, val = outcomes["train"], outcomes["val"]
    errors = fit_errors(learned.features, val.features, val.errors)
    return Reliability(errors, fit_domain(data.learned, config.graph.spec()))
