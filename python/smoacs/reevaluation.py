"""Judge finished runs again, from nothing but their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from smoacs.cif import read_cif
from smoacs.evaluation import evaluate_structures, summarise
from smoacs.job import NOTHING_GIVEN, Given, Job
from smoacs.run_folder import RunFolder

if TYPE_CHECKING:
    from pymatgen.core import Structure

REPRODUCED_WITHIN = 1e-4


@dataclass(frozen=True)
class Reevaluation:
    """A finished run, judged again from its CIF files.

    Attributes
    ----------
    table : DataFrame
        The rows of results.csv that have a file, computed anew.
    criteria : dict of str to float
        Share of these that meet each criterion.
    differences : dict of str to float
        Largest difference to results.csv by property and objective.
    """

    table: pd.DataFrame
    criteria: dict[str, float]
    differences: dict[str, float]

    @property
    def reproduced(self) -> bool:
        """Whether all values agree to 1e-4."""
        return all(value <= REPRODUCED_WITHIN for value in self.differences.values())


def evaluate(path: str | Path, given: Given = NOTHING_GIVEN) -> Reevaluation:
    """Judge a finished run again, from nothing but its CIF files and its configuration.

    Parameters
    ----------
    path : str or Path
        Folder of the run.
    given : Given
        Objects made in Python; needed where config.yaml says ``custom``. Other predictors than the
        run's give a second opinion.

    Raises
    ------
    ValueError, FileNotFoundError
        If the run is not finished, holds no structures, a file is missing or unreadable, or the
        predictors do not give what the objectives ask for.
    """
    folder = RunFolder(path)
    folder.check_run()
    before = folder.read_results()
    before = before[before["structure_file"] != ""].reset_index(drop=True)
    if before.empty:
        raise ValueError(
            f"{folder.path} holds no structures: no candidate succeeded, and the run was made "
            "without --keep-all"
        )
    job = Job.create(folder.read_config(), given)
    structures = [
        _read_structure(folder.path / name, n)
        for name, n in zip(before["structure_file"], before["n_sites"], strict=True)
    ]
    table = evaluate_structures(structures, before["candidate"].tolist(), job.space, job.judge)
    numbers = [*job.judge.properties, *(objective.name for objective in job.judge.objectives)]
    return Reevaluation(
        table.assign(structure_file=before["structure_file"]),
        summarise(table, job.judge)["criteria"],
        {n: _largest_difference(before[n], table[n]) for n in numbers if n in before},
    )


def _read_structure(path: Path, n_sites: int) -> Structure:
    if not path.is_file():
        raise ValueError(f"{path} is listed in results.csv but does not exist")
    try:
        structure = read_cif(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(structure) != n_sites:
        raise ValueError(f"{path} has {len(structure)} sites, results.csv says {n_sites}")
    return structure


def _largest_difference(before: pd.Series, after: pd.Series) -> float:
    """Largest absolute difference; a number on one side only is infinitely far away."""
    difference = (before - after).abs().where(before.notna() | after.notna(), 0.0)
    return float(difference.fillna(float("inf")).max())
