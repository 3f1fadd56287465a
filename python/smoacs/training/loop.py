"""The training loop: epochs, evaluation, checkpoints, early stopping."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoacs.training.config import TrainingConfig
from smoacs.training.graphs import GraphBatch, PackedGraphs
from smoacs.training.networks import Network, apply, new_network, run_network
from smoacs.training.scaling import TargetScale, mean_absolute_errors
from smoacs.yaml_files import checked

CHECKPOINT = "checkpoint.pt"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave; errors are those of the averaged weights, in the targets' units."""

    epoch: int
    train_loss: float
    val_errors: dict[str, float]
    best: bool
    seconds: float


class Trainer:
    """State of a run between epochs: network, averaged weights, optimiser, best weights so far.

    Epoch ``n`` depends only on the seed, ``n`` and the state after epoch ``n - 1``, so a run
    resumed from a checkpoint gives the weights of an uninterrupted one, bit for bit.

    Parameters
    ----------
    config : TrainingConfig
    graphs : dict of PackedGraphs
        Under ``train`` and ``val``.
    atom_features : Tensor (98, D), float32
        Features of the elements.
    device : torch.device
        Where the graphs and the network lie. On a GPU sums are added up in any order, so that runs
        agree to rounding only.
    """

    def __init__(
        self,
        config: TrainingConfig,
        graphs: dict[str, PackedGraphs],
        atom_features: Tensor,
        device: torch.device = CPU,
    ) -> None:
        self.config = config
        self.graphs = {split: part.to(device) for split, part in graphs.items()}
        self.atom_features = atom_features.to(device)
        self.scale = TargetScale.of(graphs["train"].targets, config.targets).to(device)
        self.model = new_network(config, atom_features.shape[1]).to(device)
        self.averaged = copy.deepcopy(self.model).requires_grad_(False)
        self.best = copy.deepcopy(self.averaged)
        self.best_score = float("inf")
        self.best_epoch = 0
        self.history: list[dict[str, Any]] = []
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=config.optimizer.learning_rate,
            total_steps=config.epochs * self.steps_per_epoch,
            pct_start=config.optimizer.warmup,
        )

    @property
    def device(self) -> torch.device:
        """Where training happens."""
        return self.atom_features.device

    @property
    def steps_per_epoch(self) -> int:
        """Number of mini-batches; the last one may be smaller."""
        return -(-len(self.graphs["train"]) // self.config.batch_size)

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or ``patience`` epochs brought nothing better."""
        patience = self.config.patience
        stalled = patience is not None and self.epoch - self.best_epoch >= patience
        return stalled or self.epoch >= self.config.epochs

    def run_epoch(self, on_step: Callable[[], None]) -> EpochReport:
        """Train one epoch and evaluate the averaged weights on the validation crystals."""
        started = time.perf_counter()
        loss = self._train_epoch(on_step)
        errors = mean_absolute_errors(
            self.predict(self.averaged, self.graphs["val"]), self.graphs["val"].targets
        )
        score = self.scale.score(errors)
        if score < self.best_score:
            self.best_score, self.best_epoch = score, self.epoch + 1
            self.best.load_state_dict(self.averaged.state_dict())
        report = EpochReport(
            epoch=self.epoch + 1,
            train_loss=loss,
            val_errors={
                target.name: float(error)
                for target, error in zip(self.config.targets, errors, strict=True)
            },
            best=self.best_epoch == self.epoch + 1,
            seconds=time.perf_counter() - started,
        )
        self.history.append(
            {
                "epoch": report.epoch,
                "train_loss": loss,
                **{f"val_{name}": error for name, error in report.val_errors.items()},
                "seconds": round(report.seconds, 1),
            }
        )
        return report

    def _train_epoch(self, on_step: Callable[[], None]) -> float:
        self.model.train()
        losses = []
        for batch in self._shuffled_batches():
            loss = self.scale.loss(apply(self.model, batch, self.atom_features), batch.targets)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                self.model.parameters(), self.config.optimizer.gradient_clip
            )
            self.optimizer.step()
            self.schedule.step()
            self._average()
            # Read last, so that a GPU has its work before this waits for it.
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise ValueError(
                    f"the training loss became {losses[-1]} in epoch {self.epoch + 1}; "
                    "lower optimizer.learning_rate or check the labels"
                )
            on_step()
        return float(np.mean(losses))

    def _shuffled_batches(self) -> Iterator[GraphBatch]:
        graphs = self.graphs["train"]
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(len(graphs))
        for indices in torch.from_numpy(order).to(self.device).split(self.config.batch_size):
            yield graphs.batch(indices)

    def _average(self) -> None:
        """Exponential average of the weights, with a short memory over the first steps."""
        steps = self.schedule.last_epoch
        decay = min(self.config.ema_decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay
            )
            # Constants, some of which a network takes from its first batch.
            for mine, theirs in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
                mine.copy_(theirs)

    def predict(self, model: Network, graphs: PackedGraphs) -> Tensor:
        """Predictions (C, P) in the targets' units for graphs on the trainer's device."""
        return self.scale.to_units(run_network(model, graphs, self.atom_features))

    def export(self) -> Network:
        """The best averaged network, with outputs in the targets' units."""
        model = copy.deepcopy(self.best)
        with torch.no_grad():
            model.readout.weight.mul_(self.scale.std[:, None])
            model.readout.bias.mul_(self.scale.std).add_(self.scale.mean)
        return model.eval()

    def save(self, folder: Path) -> None:
        """Write the checkpoint, replacing the previous one in one step."""
        partial = folder / f"{CHECKPOINT}.partial"
        torch.save(
            {
                "config": result_config(self.config),
                "model": self.model.state_dict(),
                "averaged": self.averaged.state_dict(),
                "best": self.best.state_dict(),
                "best_score": self.best_score,
                "best_epoch": self.best_epoch,
                "history": self.history,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            partial,
        )
        os.replace(partial, folder / CHECKPOINT)

    def restore(self, folder: Path) -> None:
        """Continue from the checkpoint in a folder.

        Raises
        ------
        ValueError
            If the checkpoint belongs to another configuration.
        """
        path = folder / CHECKPOINT
        state = torch.load(path, map_location=self.device, weights_only=True)
        wanted, made = result_config(self.config), _completed(state["config"])
        changed = sorted(key for key in wanted if wanted[key] != made.get(key))
        if changed:
            raise ValueError(
                f"{path} was made with other values of {', '.join(changed)}; choose another "
                "output or delete the checkpoint"
            )
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.best.load_state_dict(state["best"])
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        self.history = state["history"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def _completed(entries: dict[str, Any]) -> dict[str, Any]:
    """Stored entries of :func:`result_config` with those that have become known since.

    An entry that a checkpoint does not have counts as its default.
    """
    sources = [{"path": ".", **source} for source in entries["data"]["structures"]]
    data = entries["data"] | {"structures": sources}
    return result_config(checked(TrainingConfig, entries | {"output": ".", "data": data}))


def result_config(config: TrainingConfig) -> dict[str, Any]:
    """The entries of a configuration that decide the weights, as plain data."""
    return config.model_dump(
        mode="json", exclude={"output", "data", "start_from", "licence", "origin"}
    ) | {
        "data": config.data.model_dump(
            mode="json", exclude={"structures": {"__all__": {"path", "table"}}}
        )
    }
