"""Target statistics, the masked loss on standardised targets, and errors in real units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from smoacs.training.config import TargetConfig


@dataclass(frozen=True)
class TargetScale:
    """How P targets are standardised and weighted in the loss.

    Attributes
    ----------
    mean, std : Tensor (P,), float32
        Mean and spread of the training labels.
    minimum : Tensor (P,), float32
        Lower bound; -inf without one.
    weight : Tensor (P,), float32
        Shares in the loss, of sum 1.
    """

    mean: Tensor
    std: Tensor
    minimum: Tensor
    weight: Tensor

    @classmethod
    def of(cls, targets: Tensor, configs: Sequence[TargetConfig]) -> TargetScale:
        """Statistics of the training labels.

        Parameters
        ----------
        targets : Tensor (C, P), float
            NaN where missing; each column has at least one label.
        configs : sequence of TargetConfig, length P
        """
        columns = [column[~column.isnan()].double() for column in targets.T]
        weight = torch.tensor([config.weight for config in configs])
        std = torch.tensor([float(column.std(correction=0)) for column in columns])
        return cls(
            mean=torch.tensor([float(column.mean()) for column in columns]),
            std=torch.where(std > 1e-6, std, 1.0),
            minimum=torch.tensor([-torch.inf if c.minimum is None else c.minimum for c in configs]),
            weight=weight / weight.sum(),
        )

    def to(self, device: torch.device) -> TargetScale:
        """The same on a device."""
        return TargetScale(*(getattr(self, field.name).to(device) for field in fields(self)))

    def to_units(self, outputs: Tensor) -> Tensor:
        """Network outputs (C, P) in the units of the targets, clipped at the lower bounds."""
        return torch.maximum(outputs * self.std + self.mean, self.minimum)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error on standardised targets, weighted over the targets.

        Parameters
        ----------
        outputs : Tensor (C, P), float
            Network outputs, standardised.
        targets : Tensor (C, P), float
            In real units, NaN where missing. A batch without any label of a target counts 0 for it.

        Returns
        -------
        Tensor ()
        """
        known = ~targets.isnan()
        wanted = torch.where(known, targets, self.mean)
        error = outputs - (wanted - self.mean) / self.std
        # At the lower bound every prediction below is right, since it will be clipped.
        error = torch.where(wanted <= self.minimum, error.clamp_min(0.0), error.abs())
        return self.weight @ ((error * known).sum(0) / known.sum(0).clamp_min(1))

    def score(self, errors: Tensor) -> float:
        """Weighted mean of the targets' errors (P,) in units of their spread, to compare epochs."""
        return float(self.weight @ (errors / self.std))


def mean_absolute_errors(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error of each target over its labelled crystals, (P,); NaN without labels."""
    return (predictions - targets).abs().nanmean(0)
