"""One training run in its folder: data, epochs with a progress bar, evaluation, bundle."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from smoacs.predictors.reliability import split_state
from smoacs.predictors.weights import load_bundle
from smoacs.training.card import add_to_bundle, write_bundle
from smoacs.training.config import TrainingConfig, load_config
from smoacs.training.data import TrainingData
from smoacs.training.graphs import PackedGraphs
from smoacs.training.loop import CHECKPOINT, CPU, EpochReport, Trainer
from smoacs.training.networks import Network, trained_network
from smoacs.training.outcome import Outcome, fit_reliability, mean_absolute_errors


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
    data = TrainingData.load(config)
    with console.status("building the graphs of all crystals"):
        graphs = _graphs(config, data)
    trainer = Trainer(config, graphs, cgcnn_table(), device)
    config.output.mkdir(parents=True, exist_ok=True)
    if (config.output / CHECKPOINT).exists():
        trainer.restore(config.output)
        console.print(f"continuing {config.output} after epoch {trainer.epoch}")
    (config.output / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    _run_epochs(trainer, console)
    network = trainer.export()
    outcomes = _outcomes(config, network, trainer.graphs)
    if "test" in outcomes:
        _write_predictions(config, data.parts["test"].ids, outcomes["test"])
    reliability = fit_reliability(config, data, outcomes)
    card = write_bundle(trainer, network, data, outcomes, reliability)
    errors = mean_absolute_errors(config, outcomes)
    for split, values in errors.items():
        console.print(f"{split}: " + _sentence(values, config))
    console.print(f"model written to {card}")
    return TrainingResult(card, errors)


def add_reliability(model: str | Path, config_path: str | Path, folder: str | Path) -> Path:
    """Give a model that was trained without them expected errors and a domain.

    Parameters
    ----------
    model : str or Path
        Name of a bundled model, or path of a model's card.
    config_path : str or Path
        Configuration that it was trained with.
    folder : str or Path
        Where the model goes, with its weights unchanged.

    Returns
    -------
    Path
        The new card.

    Raises
    ------
    ValueError, FileNotFoundError
        If the model or the configuration is bad, or they do not belong together.
    """
    config = load_config(config_path)
    card, state = load_bundle(model)
    if [p.name for p in card.properties] != [target.name for target in config.targets]:
        raise ValueError(f"{config_path} trains other properties than those of {card.name}")
    data = TrainingData.load(config)
    state, _ = split_state(state, card.domain)
    network = trained_network(config, cgcnn_table().shape[1], state)
    outcomes = _outcomes(config, network, _graphs(config, data))
    return add_to_bundle(folder, card, network, fit_reliability(config, data, outcomes), outcomes)


def _graphs(config: TrainingConfig, data: TrainingData) -> dict[str, PackedGraphs]:
    """Graphs by split, where ``train`` has the strained copies as well; no empty split."""
    crystals = data.parts | {"train": data.learned, "strained_test": data.strained_test}
    spec = config.graph.spec()
    return {name: PackedGraphs.build(part, spec) for name, part in crystals.items() if len(part)}


def _outcomes(
    config: TrainingConfig, network: Network, graphs: dict[str, PackedGraphs]
) -> dict[str, Outcome]:
    features = cgcnn_table().to(graphs["train"].targets.device)
    return {
        split: Outcome.of(network, part, features, config.targets) for split, part in graphs.items()
    }


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


def _write_predictions(config: TrainingConfig, ids: Sequence[str], test: Outcome) -> None:
    names = [target.name for target in config.targets]
    columns = ["id", *names, *(f"{name}_predicted" for name in names)]
    _write_table(
        config.output / "test_predictions.csv",
        [
            dict(zip(columns, [name, *labels, *predicted], strict=True))
            for name, labels, predicted in zip(
                ids, test.targets.tolist(), test.predictions.tolist(), strict=True
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
