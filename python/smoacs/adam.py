"""Adam without the class of torch, whose first use imports TorchDynamo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """``torch.optim.Adam`` with its default settings, bit for bit; for short optimisations.

    Importing TorchDynamo takes a second or two. Source: Kingma and Ba, arXiv:1412.6980.

    Parameters
    ----------
    groups : sequence of mappings
        ``params``, a list of leaves, and their learning rate ``lr``.

    Attributes
    ----------
    param_groups : list of dict
        The groups; ``lr`` may be set between steps.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self.param_groups = [dict(group) for group in groups]
        self._state: dict[int, dict[str, Tensor]] = {}  # by the parameter's place

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for _, parameter, _ in self._parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient."""
        for place, parameter, rate in self._parameters():
            if parameter.grad is None:
                continue
            if place not in self._state:
                moments = {n: torch.zeros_like(parameter) for n in ("exp_avg", "exp_avg_sq")}
                self._state[place] = {"step": torch.tensor(0.0), **moments}
            state = self._state[place]
            adam(
                [parameter],
                [parameter.grad],
                [state["exp_avg"]],
                [state["exp_avg_sq"]],
                [],
                [state["step"]],
                lr=rate,
                beta1=0.9,
                beta2=0.999,
                eps=1e-8,
                weight_decay=0.0,
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """Moments and numbers of steps, by the place of the parameter; not the rates."""
        return {"state": self._state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a copy of a saved state."""
        self._state = {
            place: {
                # Adam reads the number of steps on the host, wherever the moments are.
                name: value.cpu().clone() if name == "step" else value.clone()
                for name, value in moments.items()
            }
            for place, moments in state["state"].items()
        }

    def _parameters(self) -> Iterator[tuple[int, Tensor, float]]:
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                yield place, parameter, group["lr"]
                place += 1
