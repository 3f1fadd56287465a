"""One training run in its folder: data, epochs with a progress bar, evaluation, bundle."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from smoacs.ops import kept_memory
from smoacs.predictors.element_features import cgcnn_table
from smoacs.training.card import write_bundle
from smoacs.training.config import TrainingConfig, load_config
from smoacs.training.data import (
    SPLITS,
    LabelledCrystals,
    concatenate,
    load_crystals,
    strained_copies,
)
from smoacs.training.graphs import PackedGraphs
from smoacs.training.loop import CHECKPOINT, CPU, EpochReport, Trainer
from smoacs.training.scaling import mean_absolute_errors


@dataclass(frozen=True)
class TrainingResult:
    """Where the finished model lies and how far off it is.

    Attributes
    ----------
    card : Path
        The ``NAME.json`` beside ``NAME.safetensors``; ``smoacs.predictors.load`` takes this path.
    errors : dict
        Mean absolute error by split (val, test) and target, in the targets' units.
    """

    card: Path
    errors: dict[str, dict[str, float]]


def train(
    config_path: str | Path, *, device: torch.device = CPU, console: Console | None = None
) -> TrainingResult:
    """Train a model as a YAML file says, or continue where a run of it stopped.

    The output folder gets ``config.yaml``, ``history.csv``, ``checkpoint.pt`` after every epoch,
    and in the end the model (``NAME.safetensors`` and its card ``NAME.json``) and
    ``test_predictions.csv``. Stopping at any time loses at most one epoch; starting again gives
    the same weights as an uninterrupted run on the same CPU and number of threads. A run may
    continue on another device than it began on.

    Parameters
    ----------
    config_path : str or Path
        See :class:`smoacs.training.config.TrainingConfig`.
    device : torch.device
        CPU or GPU to train on.
    console : rich Console, optional
        Where progress is shown; default is the standard error stream.

    Raises
    ------
    ValueError
        If the configuration or data is bad, or the output folder holds another run.
    """
    console = console or Console(stderr=True)
    config = load_config(config_path)
    crystals = load_crystals(config)
    parts = {split: crystals.select(np.flatnonzero(crystals.split == split)) for split in SPLITS}
    copies = _copies(config, parts["train"])
    learned = concatenate([parts["train"], *copies])
    with console.status(f"building the graphs of {len(crystals)} crystals"):
        spec = config.graph.spec()
        graphs = {
            "train": PackedGraphs.build(learned, spec),
            "val": PackedGraphs.build(parts["val"], spec),
        }
    trainer = Trainer(config, graphs, cgcnn_table(), device)
    config.output.mkdir(parents=True, exist_ok=True)
    if (config.output / CHECKPOINT).exists():
        trainer.restore(config.output)
        console.print(f"continuing {config.output} after epoch {trainer.epoch}")
    (config.output / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    _run_epochs(trainer, console)
    held_out = {"val": trainer.graphs["val"]}
    if len(parts["test"]) > 0:
        held_out["test"] = PackedGraphs.build(parts["test"], spec).to(device)
        _write_predictions(trainer, parts["test"].ids, held_out["test"])
    errors = {split: _errors(trainer, part) for split, part in held_out.items()}
    card = write_bundle(
        config.output, trainer, parts, copies=len(learned) - len(parts["train"]), errors=errors
    )
    for split, values in errors.items():
        console.print(f"{split}: " + _sentence(values, config))
    console.print(f"model written to {card}")
    return TrainingResult(card, errors)


def _copies(config: TrainingConfig, crystals: LabelledCrystals) -> list[LabelledCrystals]:
    if config.strained_copies is None:
        return []
    names = [target.name for target in config.targets]
    columns = [names.index(energy) for energy in config.strained_copies.energies]
    return [strained_copies(crystals, config.strained_copies, columns, config.seed)]


def _run_epochs(trainer: Trainer, console: Console) -> None:
    config = trainer.config
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with kept_memory(), Progress(*columns, console=console) as progress:
        epochs = progress.add_task("epochs", total=config.epochs, completed=trainer.epoch)
        steps = progress.add_task("steps", total=trainer.steps_per_epoch)
        while not trainer.finished:
            progress.reset(steps)
            report = trainer.run_epoch(lambda: progress.advance(steps))
            trainer.save(config.output)
            _write_table(config.output / "history.csv", trainer.history)
            progress.advance(epochs)
            console.print(_epoch_line(report, config))


def _errors(trainer: Trainer, graphs: PackedGraphs) -> dict[str, float]:
    """Errors of the best weights by target; targets without a label are left out."""
    errors = mean_absolute_errors(trainer.predict(trainer.best, graphs), graphs.targets)
    return {
        target.name: float(error)
        for target, error in zip(trainer.config.targets, errors, strict=True)
        if torch.isfinite(error)
    }


def _write_predictions(trainer: Trainer, ids: Sequence[str], graphs: PackedGraphs) -> None:
    names = [target.name for target in trainer.config.targets]
    columns = ["id", *names, *(f"{name}_predicted" for name in names)]
    predictions = trainer.predict(trainer.best, graphs).tolist()
    _write_table(
        trainer.config.output / "test_predictions.csv",
        [
            dict(zip(columns, [name, *labels, *predicted], strict=True))
            for name, labels, predicted in zip(
                ids, graphs.targets.tolist(), predictions, strict=True
            )
        ],
    )


def _epoch_line(report: EpochReport, config: TrainingConfig) -> str:
    mark = ", best so far" if report.best else ""
    return (
        f"epoch {report.epoch}: loss {report.train_loss:.4f}, validation "
        f"{_sentence(report.val_errors, config)} ({report.seconds:.0f} s{mark})"
    )


def _sentence(errors: Mapping[str, float], config: TrainingConfig) -> str:
    units = {target.name: target.unit for target in config.targets}
    return ", ".join(f"{name} {error:.4f} {units[name]}" for name, error in errors.items())


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
