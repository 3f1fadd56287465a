"""The finished model: its two files, with a card that states what was measured."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoacs.predictors.weights import PropertyCard, save_bundle
from smoacs.training.config import TrainingConfig
from smoacs.training.data import LabelledCrystals
from smoacs.training.graphs import PackedGraphs
from smoacs.training.loop import Trainer, result_config

ELEMENT_COUNT_FOR_TRUST = 20
"""Elements in fewer training crystals are named in the card as hardly known."""


def write_bundle(
    folder: Path,
    trainer: Trainer,
    crystals: dict[str, LabelledCrystals],
    copies: int,
    errors: dict[str, dict[str, float]],
) -> Path:
    """Write ``NAME.safetensors`` and ``NAME.json`` of the best weights; return the card's path.

    Parameters
    ----------
    folder : Path
    trainer : Trainer
    crystals : dict of LabelledCrystals
        By split, without strained copies.
    copies : int
        Number of strained copies trained on.
    errors : dict
        Mean absolute error by split and target, of the weights that are written.
    """
    config, network = trainer.config, trainer.export()
    train = crystals["train"]
    return save_bundle(
        folder,
        network,
        name=config.name,
        architecture={"kind": config.model.family, **asdict(network.config)},
        graph=config.graph.spec(),
        properties=_properties(config, train),
        elements=_symbols(np.unique(train.atomic_numbers)),
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
            "strained_copies": copies,
            "mean_absolute_error": errors,
            "mean_absolute_deviation_of_test_labels": _deviations(config, crystals),
            "trained_on": _ranges(train, trainer.graphs["train"]),
            "rare_elements": _rare_elements(train),
            "epochs": trainer.epoch,
            "best_epoch": trainer.best_epoch,
            "configuration": result_config(config),
            "versions": {name: version(name) for name in ("torch", "numpy")},
        },
    )


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
    config: TrainingConfig, crystals: dict[str, LabelledCrystals]
) -> dict[str, float | None]:
    """Error of always guessing the training mean: what the model's errors compare with."""
    means = np.nanmean(crystals["train"].targets, axis=0)
    test = crystals["test"].targets
    return {
        target.name: None if np.isnan(labels).all() else float(np.nanmean(np.abs(labels - mean)))
        for target, labels, mean in zip(config.targets, test.T, means, strict=True)
    }


def _ranges(train: LabelledCrystals, graphs: PackedGraphs) -> dict[str, Any]:
    """Size, density and closest contacts in training: inside, predictions interpolate."""
    volume = np.abs(np.linalg.det(train.lattice)) / train.n_sites
    lengths = graphs.vectors.norm(dim=1).cpu().numpy()
    shortest = np.minimum.reduceat(lengths, graphs.edge_ptr[:-1].cpu().numpy())
    return {
        "max_sites": int(train.n_sites.max()),
        "volume_per_atom_A3": _quantiles(volume),
        "shortest_bond_A": _quantiles(shortest),
    }


def _quantiles(values: NDArray[np.floating]) -> dict[str, float]:
    return {str(q): round(float(np.quantile(values, q)), 3) for q in (0.001, 0.5, 0.999)}


def _rare_elements(train: LabelledCrystals) -> list[str]:
    owner = np.repeat(np.arange(len(train)), train.n_sites)
    present = np.unique(np.stack([owner, train.atomic_numbers]), axis=1)[1]
    numbers, counts = np.unique(present, return_counts=True)
    return list(_symbols(numbers[counts < ELEMENT_COUNT_FOR_TRUST]))


def _symbols(numbers: NDArray[np.int64]) -> tuple[str, ...]:
    from pymatgen.core.periodic_table import Element

    return tuple(Element.from_Z(int(z)).symbol for z in numbers)
