"""Errors and speed of predictors: python bench/predictors.py [NAME ...] [--data FILE].

For each predictor (default: all that are ready): mean absolute error of each property on the
crystals of FILE whose split is ``test``, and the time of one design step of 256 five-atom
perovskites (the minimum of several). Prints a Markdown table and writes
bench/results/predictors.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from pymatgen.core import Lattice, Structure

from smoacs.objectives import Minimize
from smoacs.optimizer import Optimizer
from smoacs.predictors import Predictor, load, predict
from smoacs.predictors import list as list_predictors
from smoacs.schedules import PRESETS
from smoacs.structures_io import cell_matrix, read_records
from smoacs.templates import DesignSpace, perovskite

BENCH = Path(__file__).parent
CANDIDATES, REPEATS = 256, 5


def step_seconds(predictor: Predictor, device: str) -> float:
    """Time of one step of a design."""
    space = DesignSpace.create([perovskite()], CANDIDATES, device=torch.device(device))
    targets = [Minimize(p.name, below=0.0) for p in predictor.properties]
    loop = Optimizer(space, targets, [predictor], PRESETS["default"], steps=1000, seed=0)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        loop.step()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def errors(predictor: Predictor, records: list[dict], device: str) -> dict[str, dict[str, float]]:
    """Mean absolute error and number of labels by property."""
    found = {}
    for prop in predictor.properties:
        labelled = [record for record in records if record.get(prop.name) is not None]
        if not labelled:
            continue
        structures = [
            Structure(Lattice(cell_matrix(r)), r["species"], r["frac_coords"]) for r in labelled
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of elements that it does not know
            values = predict(structures, predictor, device=device)[prop.name].to_numpy()
        difference = np.abs(values - [record[prop.name] for record in labelled])
        known = np.isfinite(difference)
        if known.any():
            found[prop.name] = {
                "mae": float(difference[known].mean()),
                "crystals": int(known.sum()),
            }
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    names = given.names or [i.name for i in list_predictors() if i.ready and i.properties]
    records = [r for path in given.data for r in read_records(path) if r.get("split") == "test"]
    rows = []
    for name in names:
        predictor = load(name, given.device)
        rows.append(
            {
                "name": predictor.name,
                "properties": {p.name: p.unit for p in predictor.properties},
                "errors": errors(predictor, records, given.device),
                "step_seconds": step_seconds(predictor, given.device),
            }
        )
    print("| predictor | property | unit | test MAE | crystals | s per step of 256 cells |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        for prop, unit in row["properties"].items():
            error = row["errors"].get(prop)
            cells = f"{error['mae']:.4f} | {error['crystals']}" if error else "- | -"
            seconds = f"{row['step_seconds']:.3f}"
            print(f"| {row['name']} | {prop} | {unit} | {cells} | {seconds} |")
    record = {
        "device": given.device,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "data": [path.name for path in given.data],
        "predictors": rows,
    }
    target = BENCH / "results" / "predictors.json"
    target.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
