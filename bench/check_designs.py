"""Check the successes of a perovskite run with pymatgen alone; no smoacs code takes part.

Usage: python bench/check_designs.py DIR

Reads DIR/results.csv and DIR/structures/*.cif, and checks of every success that the CIF can be
read, that the reported oxidation numbers are known to pymatgen and sum to zero, that every site
lies within 0.15 of an ideal perovskite site with angles of 85 to 95 degrees, and that Goldschmidt's
tolerance factor is in [0.8, 1.0] and the one reported.
"""

from __future__ import annotations

import csv
import re
import sys
import warnings
from pathlib import Path

import numpy as np
from pymatgen.core import Element, Structure

IDEAL = {
    "A": np.array([[0.0, 0.0, 0.0]]),
    "B": np.array([[0.5, 0.5, 0.5]]),
    "X": np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]),
}
STATES = {-1: {"A": 1, "B": 2, "X": -1}, -2: {"A": 2, "B": 4, "X": -2}}


def roles_of(structure: Structure) -> tuple[list[str], float]:
    """Nearest ideal site of each site, and the largest displacement in five-atom cells."""
    repeats = round((len(structure) / 5) ** (1 / 3))
    roles, largest = [], 0.0
    for coords in structure.frac_coords:
        distance = {}
        for role, sites in IDEAL.items():
            delta = coords * repeats - sites
            distance[role] = np.abs(delta - np.round(delta)).max(axis=1).min()
        role = min(distance, key=distance.__getitem__)
        roles.append(role)
        largest = max(largest, distance[role])
    return roles, largest


def ionic_radius(element: Element, state: int) -> float:
    """Shannon's crystal radius in Å, high spin where there is a choice; 1.24 for Sn2+."""
    if (element.symbol, state) == ("Sn", 2):
        return 1.24
    low_spin = element.data.get("Ionic radii ls") or {}
    return element.ionic_radii.get(state, low_spin.get(str(state), np.nan))


def tolerance_factor(structure: Structure, roles: list[str]) -> float:
    """Goldschmidt's factor of the mean radii, Å, of the three roles."""
    anions = [s.specie for s, role in zip(structure, roles, strict=True) if role == "X"]
    charge = -1 if all(-1 in Element(a.symbol).oxidation_states for a in anions) else -2
    for states in (STATES[charge], STATES[-3 - charge]):
        radii: dict[str, list[float]] = {role: [] for role in IDEAL}
        for site, role in zip(structure, roles, strict=True):
            radii[role].append(ionic_radius(site.specie, states[role]))
        a, b, x = (np.mean(radii[role]) for role in "ABX")
        if np.isfinite(a + b + x):
            return float((a + x) / (2**0.5 * (b + x)))
    return float("nan")


def charge_problem(structure: Structure, text: str) -> str | None:
    """What is wrong with reported oxidation numbers such as ``Cs+1 Fe+2(1) Fe+3(2) O-2``."""
    counts = {str(e): int(n) for e, n in structure.composition.items()}
    total = 0
    seen: dict[str, int] = {}
    for symbol, state, number in re.findall(r"([A-Z][a-z]?)([+-]\d+)(?:\((\d+)\))?", text):
        atoms = int(number) if number else counts[symbol]
        element = Element(symbol)
        if int(state) not in {*element.oxidation_states, *element.icsd_oxidation_states}:
            return f"{symbol} has no oxidation number {state}"
        seen[symbol] = seen.get(symbol, 0) + atoms
        total += atoms * int(state)
    if seen != counts:
        return f"oxidation numbers of {seen}, but the crystal holds {counts}"
    return f"charge {total:+d}" if total else None


def check(folder: Path, row: dict[str, str]) -> str | None:
    """What is wrong with one success, if anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CIF coordinates rounded to ideal values
        structure = Structure.from_file(folder / row["structure_file"])
    roles, displacement = roles_of(structure)
    counts = [roles.count(role) for role in "ABX"]
    factor = tolerance_factor(structure, roles)
    if charge := charge_problem(structure, row["oxidation_states"]):
        return charge
    if counts[0] * 3 != counts[2] or counts[0] != counts[1]:
        return f"sites per role {counts}"
    if displacement > 0.15 + 1e-4:
        return f"a site is displaced by {displacement:.3f}"
    if any(not 85 <= angle <= 95 for angle in structure.lattice.angles):
        return f"angles {structure.lattice.angles}"
    if not 0.8 <= factor <= 1.0 or abs(factor - float(row["tolerance_factor"])) > 1e-4:
        return f"tolerance factor {factor:.4f}, reported {row['tolerance_factor']}"
    return None


def main() -> int:
    """Check a folder; the number of wrong successes is the exit code."""
    folder = Path(sys.argv[1])
    with (folder / "results.csv").open() as file:
        successes = [row for row in csv.DictReader(file) if row["success"] == "True"]
    problems = {row["structure_file"]: check(folder, row) for row in successes}
    wrong = {name: problem for name, problem in problems.items() if problem}
    for name, problem in wrong.items():
        print(f"{name}: {problem}")
    print(f"{len(successes) - len(wrong)} of {len(successes)} successes confirmed")
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main())
