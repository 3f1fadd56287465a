"""Draw docs/images/results.png from a finished run: python docs/figure.py DIR."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from ase.io import read
from ase.visualize.plot import plot_atoms

BLUE, GREY, BAND = "#2a6f97", "#b0b0b0", "#cfe3ee"


def main() -> None:
    """Success over the steps, where the candidates began and ended, and four of the crystals."""
    folder = Path(sys.argv[1])
    table = pd.read_csv(folder / "results.csv")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    targets = {entry.get("name", entry["kind"]): entry for entry in config["objectives"]}
    gap, energy = targets["band_gap"], targets["formation_energy"]
    history = np.load(folder / "history.npz")

    figure = plt.figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 1.15, 1.25])

    axes = left.subplots()
    axes.plot(history["step"], history["n_success"] / len(table), color=BLUE, lw=2)
    axes.set(xlabel="step", ylabel="candidates that meet all targets", ylim=(0, 1.02))

    axes = middle.subplots()
    axes.axvspan(gap["target"] - gap["margin"], gap["target"] + gap["margin"], color=BAND, lw=0)
    axes.axhline(energy["below"], color=GREY, lw=1, ls="--")
    names = history["objectives"].tolist()
    first = history["values"][0]
    start = [first[:, names.index(name)] for name in ("band_gap", "formation_energy")]
    axes.scatter(*start, 9, GREY, label="first step")
    axes.scatter(table["band_gap"], table["formation_energy"], 9, BLUE, label="result")
    axes.set(xlabel="predicted band gap (eV)", ylabel="predicted formation energy (eV/atom)")
    axes.set_xlim(0, 2.5 * gap["target"])
    axes.legend(frameon=False)

    chosen = table[table["success"]].sort_values("formation_energy").drop_duplicates("formula")
    rows = chosen.iloc[np.linspace(0, len(chosen) - 1, 5).astype(int)[:4]]
    for axes, (_, row) in zip(right.subplots(2, 2).flat, rows.iterrows(), strict=True):
        atoms = read(folder / row["structure_file"]).repeat((2, 2, 2))
        plot_atoms(atoms, axes, radii=0.45, rotation="-85x,15y,3z")
        axes.set_axis_off()
        axes.set_title(f"{row['formula']}, {row['band_gap']:.2f} eV", fontsize=9)

    figure.savefig(Path(__file__).parent / "images" / "results.png", dpi=130)


if __name__ == "__main__":
    main()
