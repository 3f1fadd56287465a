"""The main job, end to end: the bundled predictors, the command line, and pymatgen as judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from smoacs import IonicContacts, Minimize, ToleranceFactor, Window, design, predict, templates
from smoacs.cli import main

CHECK = Path(__file__).parents[1] / "bench" / "check_designs.py"
TARGET = ["design", "perovskite", "--band-gap", "2.5", "--candidates", "24"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("main") / "run"
    assert main([*TARGET, "--out", str(folder)]) == 0
    return folder


def test_most_candidates_succeed_and_differ(run_folder) -> None:
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["success_rate"] >= 0.9
    assert summary["criteria"]["neutral"] == 1.0
    assert summary["criteria"]["geometry"] == 1.0
    assert summary["distinct_compositions"] >= 0.8


def test_pymatgen_confirms_every_success(run_folder) -> None:
    check = subprocess.run(
        [sys.executable, str(CHECK), str(run_folder)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr
    n = int(pd.read_csv(run_folder / "results.csv")["success"].sum())
    assert f"{n} of {n} successes confirmed" in check.stdout


def test_files_reproduce_the_reported_values(run_folder) -> None:
    assert main(["evaluate", str(run_folder)]) == 0
    from pymatgen.core import Structure

    table = pd.read_csv(run_folder / "results.csv")
    table = table[table["success"]]
    structures = [Structure.from_file(run_folder / name) for name in table["structure_file"]]
    for model, at in (("smoacs-crystalformer-mp", ""), ("smoacs-alignn-mp", "@smoacs-alignn-mp")):
        values = predict(structures, model)
        assert (abs(values["band_gap"] - 2.5) <= 0.2).all()
        for name in ("band_gap", "formation_energy"):
            assert np.allclose(values[name], table[name + at], rtol=0, atol=1e-4)


def test_batches_and_repetition_do_not_change_results(run_folder, tmp_path) -> None:
    """One batch of 24 candidates gives what four of 6 give, to the last character."""
    again = tmp_path / "again"
    assert main([*TARGET, "--batch-sites", "30", "--out", str(again)]) == 0
    assert (again / "results.csv").read_bytes() == (run_folder / "results.csv").read_bytes()


def test_python_example() -> None:
    run = design(
        templates.perovskite(),
        [
            Window("band_gap", 2.5, 0.2),
            Minimize("formation_energy", below=-0.5),
            ToleranceFactor(0.8, 1.0),
            IonicContacts(),
        ],
        candidates=4,
        steps=40,
        seed=0,
    )
    assert len(run.table) == 4
    assert len(run.structures) == int(run.table["success"].sum())


@pytest.mark.slow
def test_supercell_successes_are_neutral(tmp_path) -> None:
    folder = tmp_path / "large"
    options = ["--supercell", "2", "2", "2", "--candidates", "4", "--steps", "60"]
    code = main(["design", "perovskite", "--band-gap", "3", *options, "--out", str(folder)])
    assert code in (0, 3)
    table = pd.read_csv(folder / "results.csv")
    assert (table["n_sites"] == 40).all()
    assert table["neutral"].all()
