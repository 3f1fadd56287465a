"""Elemental energies for CHGNet's formation energies: python bench/chgnet_references.py DATA.

DATA is a .jsonl[.xz] file of crystals with ``formation_energy`` and ``split``. For every model of
the chgnet package, the elemental energies are those that bring its energies closest to the labels
of training crystals (least absolute deviations; at most PER_ELEMENT crystals for each element).
Writes them into the package and prints the mean absolute error on the test split.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from pymatgen.core import Lattice, Structure

import smoacs
from smoacs.chemistry.elements import symbol
from smoacs.predictors import predict
from smoacs.predictors.chgnet import ELEMENTS, VERSIONS, CHGNetPredictor
from smoacs.structures_io import cell_matrix, read_records

TARGET = Path(smoacs.__file__).parent / "predictors" / "data" / "chgnet_references.json"
MAX_SITES = 20
PER_ELEMENT = 150


def crystals(path: Path) -> dict[str, tuple[list[Structure], np.ndarray]]:
    """Structures and labels by split: all test crystals, a spread of training crystals."""
    seen: Counter[str] = Counter()
    found: dict[str, list] = {"train": [], "test": []}
    records = list(read_records(path))
    random.Random(0).shuffle(records)
    for record in records:
        split, label = record["split"], record.get("formation_energy")
        elements = set(record["species"])
        wanted = split == "test" or any(seen[element] < PER_ELEMENT for element in elements)
        if label is None or split not in found or not wanted:
            continue
        if split == "train":
            if len(record["species"]) > MAX_SITES:
                continue
            seen.update(elements)
        lattice = Lattice(cell_matrix(record))
        found[split].append((Structure(lattice, record["species"], record["frac_coords"]), label))
    return {
        split: ([structure for structure, _ in rows], np.array([label for _, label in rows]))
        for split, rows in found.items()
    }


def contents(structures: list[Structure]) -> np.ndarray:
    """Share of each element, (n, 98)."""
    table = np.zeros((len(structures), 98))
    for row, structure in zip(table, structures, strict=True):
        for element, amount in structure.composition.fractional_composition.items():
            row[element.Z - 1] = amount
    return table


def least_absolute(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients that minimise the sum of |x c - y|, by reweighted least squares."""
    weight = np.ones(len(y))
    for _ in range(100):
        root = np.sqrt(weight)[:, None]
        coefficients = np.linalg.lstsq(x * root, y * root[:, 0], rcond=None)[0]
        weight = 1 / np.maximum(np.abs(x @ coefficients - y), 1e-3)
    return coefficients


def main() -> None:
    """Fit, write and report."""
    splits = crystals(Path(sys.argv[1]))
    columns = np.array(sorted(ELEMENTS)) - 1
    tables = {}
    for version in VERSIONS:
        predictor = CHGNetPredictor.load(version)
        x, y = {}, {}
        for split, (structures, labels) in splits.items():
            energy = predict(structures, predictor, batch_size=32)["energy"].to_numpy()
            known = np.isfinite(energy)
            x[split] = contents(structures)[known][:, columns]
            y[split] = (energy - labels)[known]
        fitted = least_absolute(x["train"], y["train"])
        residual = np.abs(x["test"] @ fitted - y["test"])
        tables[version] = {
            "test_error": round(float(residual.mean()), 4),
            "energies": {
                symbol(int(column) + 1): round(float(energy), 4)
                for column, energy in zip(columns, fitted, strict=True)
            },
        }
        print(
            f"chgnet:{version}: {len(y['train'])} training crystals; test, {len(residual)} "
            f"crystals: MAE {residual.mean():.4f}, median {np.median(residual):.4f} eV/atom"
        )
    TARGET.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
