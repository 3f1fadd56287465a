"""A small made-up data set: rock-salt and caesium-chloride cells with two labels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

CATIONS, ANIONS = ("Li", "Na", "K", "Rb"), ("F", "Cl", "Br")
ROCK_SALT = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def make_rows() -> list[dict]:
    """24 crystals; every third has no band gap, the splits go round."""
    rng = np.random.default_rng(7)
    rows = []
    for index, (cation, anion, simple) in enumerate(
        itertools.product(CATIONS, ANIONS, (True, False))
    ):
        size = rng.uniform(3.2, 5.8)
        lattice = size * np.eye(3) if simple else size * np.array(ROCK_SALT) * 1.3
        row = {
            "id": f"crystal-{index}",
            "lattice_matrix": lattice.tolist(),
            "species": [cation, anion],
            "frac_coords": [[0, 0, 0], rng.normal(0.5, 0.02, 3).tolist()],
            "formation_energy": -3.0 + 0.3 * CATIONS.index(cation) + 0.1 * ANIONS.index(anion),
            "bulk_modulus": 40.0,
            "split": ("train", "train", "val", "train", "test", "train")[index % 6],
        }
        if index % 3:
            row["band_gap"] = max(0.0, 6.0 - size)
        rows.append(row)
    return rows


@pytest.fixture
def rows() -> list[dict]:
    return make_rows()


@pytest.fixture
def jsonl(tmp_path, rows) -> Path:
    path = tmp_path / "crystals.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def raw_config(jsonl) -> dict:
    return {
        "name": "toy",
        "output": "run",
        "data": {"structures": jsonl.name},
        "targets": [
            {"name": "formation_energy", "unit": "eV/atom"},
            {"name": "band_gap", "unit": "eV", "minimum": 0.0},
        ],
        "graph": {"k": 6, "three_body_cutoff": 3.0},
        "model": {"hidden_features": 16, "alignn_layers": 1, "gcn_layers": 1},
        "epochs": 4,
        "batch_size": 6,
        "ema_decay": 0.9,
    }


@pytest.fixture
def crystalformer_config(raw_config) -> dict:
    """The same training of a model of the other family."""
    return raw_config | {
        "graph": {"rule": "radius", "cutoff": 5.0, "three_body_cutoff": None},
        "model": {
            "family": "crystalformer",
            "layers": 1,
            "width": 16,
            "heads": 2,
            "hidden_width": 32,
            "readout": [8],
            "radial_functions": 16,
        },
    }


@pytest.fixture
def write_config(tmp_path):
    def write(raw: dict, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(raw))
        return path

    return write
