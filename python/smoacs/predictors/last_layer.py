"""Expected errors from the features that the last layer of a network reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from smoacs.predictors.layers import linear


class LastLayerError(nn.Module):
    """Local prediction rigidity of the last layer: how far training data pin a prediction down.

    Bigi, Chong, Ceriotti, Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024): the error of a
    prediction from the features f has the variance ``alpha^2 f^T (F^T F + s^2)^-1 f``, where the
    rows of F are the features of the training crystals. Here alpha, a constant there, is
    ``exp(weight f + bias)`` for each property, since errors differ in kind between, say, metals and
    insulators. All is fitted after training; the network stays as it is.

    Parameters
    ----------
    whitening : Tensor (H, H)
        A matrix W with ``W W^T = (F^T F + s^2)^-1``.
    weight : Tensor (P, H)
    bias : Tensor (P,)
    low, high : Tensor (P,)
        Range of ``weight f + bias`` in the data it was fitted to; it is not extrapolated.
    """

    whitening: Tensor
    weight: Tensor
    bias: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self, whitening: Tensor, weight: Tensor, bias: Tensor, low: Tensor, high: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("whitening", whitening)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def leverage(self, features: Tensor) -> Tensor:
        """``sqrt(f^T (F^T F + s^2)^-1 f)`` of features (C, H), (C,)."""
        return linear(features, self.whitening.T).norm(dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Standard deviations (C, P) of the predictions from features (C, H)."""
        log_alpha = linear(features, self.weight, self.bias)
        log_alpha = torch.minimum(torch.maximum(log_alpha, self.low), self.high)
        return self.leverage(features)[:, None] * log_alpha.exp()


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a layer is given while the context lasts, one tensor for each call."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()
