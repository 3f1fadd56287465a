"""What happened at each step of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoacs.objectives import Objective
from smoacs.optimizer import StepReport


class History:
    """Reports of all steps so far.

    Parameters
    ----------
    state : mapping, optional
        What :meth:`state` gave, to continue from.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._rows: dict[str, list[Any]] = {
            name: list(state[name]) if state else []
            for name in ("step", "temperature", "n_success", "loss", "values")
        }

    def append(self, report: StepReport) -> None:
        """Add the report of a step."""
        hot = report.temperature
        self._rows["step"].append(report.step)
        self._rows["temperature"].append(float("nan") if hot is None else hot)
        self._rows["n_success"].append(report.n_success)
        self._rows["loss"].append(report.loss)
        self._rows["values"].append(report.values)

    def state(self) -> dict[str, Any]:
        """Tensors and lists of numbers, for a checkpoint."""
        return {
            name: torch.stack(rows).cpu() if rows and isinstance(rows[0], Tensor) else rows
            for name, rows in self._rows.items()
        }

    def arrays(self, objectives: Sequence[Objective]) -> dict[str, np.ndarray]:
        """Content of history.npz, see :class:`smoacs.runs.Run`."""
        arrays = {name: torch.as_tensor(rows).numpy() for name, rows in self.state().items()}
        return {**arrays, "objectives": np.array([o.name for o in objectives])}
