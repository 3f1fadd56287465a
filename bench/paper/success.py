"""Success rates of perovskite design: python bench/paper/success.py [--megnet FOLDER] [--out DIR].

Runs every combination of target, start and predictor that has no finished run in DIR yet, checks
the successes with ``check_designs.py``, asks the MEGNets about those of other predictors, and
writes bench/results/success_rates.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pandas as pd

BENCH = Path(__file__).parents[1]
GAPS = (0.5, 2.5, 4.0)
STARTS = ("radii", "random")


def names_of_megnets(folder: Path) -> str:
    """The two MEGNets, for ``--predictor``."""
    models = ("MEGNet-MP-2019.4.1-BandGap-mfi", "MEGNet-MP-2018.6.1-Eform")
    return ",".join(f"megnet:{folder / model}" for model in models)


def cases(megnet: Path | None) -> dict[str, list[str]]:
    """Options of ``smoacs design perovskite`` by name of the case."""
    crystalformer, alignn = "smoacs-crystalformer-mp", "smoacs-alignn-mp"
    predictors = {
        "both": f"{crystalformer},{alignn}",
        "crystalformer": crystalformer,
        "alignn": alignn,
    }
    if megnet is not None:
        predictors["megnet"] = names_of_megnets(megnet)
    chosen = {}
    for (name, predictor), start, gap in itertools.product(predictors.items(), STARTS, GAPS):
        options = ["--band-gap", str(gap), "--start", start, "--predictor", predictor]
        chosen[f"{name}-{start}-{gap}"] = options
    chosen["both-paper-2.5"] = ["--band-gap", "2.5", "--preset", "paper"]
    chosen["alignn-paper-2.5"] = [*chosen["both-paper-2.5"], "--predictor", alignn]
    chosen["both-3x3x3-4.0"] = ["--band-gap", "4.0", "--supercell", "3", "3", "3"]
    chosen["both-3x3x3-4.0"] += ["--candidates", "32"]
    return chosen


def run(folder: Path, options: list[str]) -> dict[str, object]:
    """Summary of one case, run if it has not been."""
    if not (folder / "summary.json").exists():
        command = ["smoacs", "design", "perovskite", *options, "--force", "--out", str(folder)]
        code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
        if code not in (0, 3):
            raise SystemExit(f"{folder.name} failed with exit code {code}")
    check = [sys.executable, str(BENCH / "check_designs.py"), str(folder)]
    confirmed = subprocess.run(check, check=False, capture_output=True, text=True)
    summary = json.loads((folder / "summary.json").read_text())
    return {**summary, "confirmed_by_pymatgen": confirmed.stdout.strip().splitlines()[-1]}


def opinion(folder: Path, megnet: Path, gap: float) -> dict[str, float]:
    """What the MEGNets, which had no part in it, say of the successes of a run."""
    table = folder / "megnet.csv"
    if not table.exists():
        asked = ["evaluate", str(folder), "--predictor", names_of_megnets(megnet)]
        command = [sys.executable, "-m", "smoacs", *asked, "--out", str(table)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    judged = pd.read_csv(table)
    off = (judged["band_gap"] - gap).abs()
    return {
        "formation_energy_ok": float(judged["formation_energy_ok"].mean()),
        "gap_within_0.2": float((off <= 0.2).mean()),
        "gap_within_0.5": float((off <= 0.5).mean()),
        "median_gap": float(judged["band_gap"].median()),
        "mean_distance_of_gap": float(off.mean()),
    }


def processor() -> str:
    """Name of the CPU, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Run all cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megnet", type=Path, help="folder with MatGL's two MEGNet models")
    parser.add_argument("--out", type=Path, default=Path("runs/success"))
    arguments = parser.parse_args()
    git = ["git", "-C", str(BENCH), "rev-parse", "--short", "HEAD"]
    record: dict[str, object] = {
        "revision": subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }
    results = {}
    for name, options in cases(arguments.megnet).items():
        summary = results[name] = run(arguments.out / name, options)
        if arguments.megnet and not name.startswith("megnet") and summary["n_success"]:
            gap = float(options[options.index("--band-gap") + 1])
            summary["megnet"] = opinion(arguments.out / name, arguments.megnet, gap)
        print(
            f"{name:24} SC {summary['success_rate']:.3f}"
            f"  distinct {summary['distinct_compositions']}"
            f"  {summary['wall_time_s']:.0f} s  {summary['confirmed_by_pymatgen']}",
            flush=True,
        )
        record["cases"] = {
            case: {key: value for key, value in figures.items() if key != "predictors"}
            for case, figures in results.items()
        }
        target = BENCH / "results" / "success_rates.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
