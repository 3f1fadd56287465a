"""The finished model: its two files, with a card that states what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoacs.chemistry.elements import symbol
from smoacs.predictors.reliability import Reliability
from smoacs.predictors.weights import ModelCard, PropertyCard, load_bundle, save_bundle
from smoacs.training.config import TrainingConfig
from smoacs.training.data import LabelledCrystals, TrainingData
from smoacs.training.loop import Trainer, result_config
from smoacs.training.networks import Network
from smoacs.training.outcome import Outcome, mean_absolute_errors
from smoacs.training.reliability import calibration


def write_bundle(
    trainer: Trainer,
    network: Network,
    data: TrainingData,
    outcomes: Mapping[str, Outcome],
    reliability: Reliability,
) -> Path:
    """Write ``NAME.safetensors`` and ``NAME.json`` of a run; return the card's path.

    Parameters
    ----------
    trainer : Trainer
    network : Network
        The best weights, with outputs in the targets' units.
    data : TrainingData
    outcomes : mapping from split to Outcome
        Of this network.
    reliability : Reliability
        Of this network.
    """
    config, crystals = trainer.config, data.parts
    held_out = {"test": crystals["test"], "strained_test": data.strained_test}
    return save_bundle(
        config.output,
        network,
        name=config.name,
        architecture={"kind": config.model.family, **asdict(network.config)},
        graph=config.graph.spec(),
        properties=_properties(config, crystals["train"]),
        elements=_symbols(np.unique(crystals["train"].atomic_numbers)),
        training={
            "origin": config.origin,
            "licence": config.licence,
            "crystals": {split: len(part) for split, part in crystals.items()},
            "labels": {
                target.name: {
                    split: int((~np.isnan(part.targets[:, column])).sum())
                    for split, part in crystals.items()
                }
                for column, target in enumerate(config.targets)
            },
            "strained_copies": data.copies,
            "mean_absolute_error": mean_absolute_errors(config, outcomes),
            "mean_absolute_deviation": {
                name: _deviations(config, crystals["train"], part)
                for name, part in held_out.items()
                if len(part)
            },
            **_start(config),
            "epochs": trainer.epoch,
            "best_epoch": trainer.best_epoch,
            "configuration": result_config(config),
            "versions": {name: version(name) for name in ("torch", "numpy")},
            **_expected_errors(reliability, outcomes, [t.name for t in config.targets]),
        },
        reliability=reliability,
    )


def add_to_bundle(
    folder: Path | str,
    card: ModelCard,
    network: Network,
    reliability: Reliability,
    outcomes: Mapping[str, Outcome],
) -> Path:
    """Write a model again, with its reliability; return the new card's path."""
    names = [p.name for p in card.properties]
    return save_bundle(
        folder,
        network,
        name=card.name,
        architecture=card.architecture,
        graph=card.graph,
        properties=card.properties,
        elements=card.elements,
        training=card.training | _expected_errors(reliability, outcomes, names),
        reliability=reliability,
    )


def _start(config: TrainingConfig) -> dict[str, str]:
    if config.start_from is None:
        return {}
    card, _ = load_bundle(config.start_from)
    return {"started_from": f"{card.name}, SHA-256 {card.sha256}"}


def _expected_errors(
    reliability: Reliability, outcomes: Mapping[str, Outcome], names: Sequence[str]
) -> dict[str, Any]:
    if "test" not in outcomes:
        return {}
    test = outcomes["test"]
    expected = reliability.errors(test.features)
    return {"expected_errors_on_test": calibration(names, test.errors, expected)}


def _properties(config: TrainingConfig, train: LabelledCrystals) -> tuple[PropertyCard, ...]:
    return tuple(
        PropertyCard(
            name=target.name,
            unit=target.unit,
            low=float(np.nanmin(labels)),
            high=float(np.nanmax(labels)),
            minimum=target.minimum,
        )
        for target, labels in zip(config.targets, train.targets.T, strict=True)
    )


def _deviations(
    config: TrainingConfig, train: LabelledCrystals, part: LabelledCrystals
) -> dict[str, float]:
    """Error of always guessing the training mean: what the model's errors compare with."""
    means = np.nanmean(train.targets, axis=0)
    return {
        target.name: float(np.nanmean(np.abs(labels - mean)))
        for target, labels, mean in zip(config.targets, part.targets.T, means, strict=True)
        if not np.isnan(labels).all()
    }


def _symbols(numbers: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(symbol(int(z)) for z in numbers)
