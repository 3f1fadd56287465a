"""Whether designed crystals succeed, judged on the structures that their files hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from smoacs.chemistry import OxidationTable, format_assignment, neutral_assignment
from smoacs.cif import read_cif, write_cif
from smoacs.comparison import first_of_kind
from smoacs.crystals import CrystalBatch
from smoacs.objectives import Design, Objective
from smoacs.ops import neighbor_list
from smoacs.optimizer import (
    MIN_VOLUME_PER_SITE,
    SITES_PER_BATCH,
    batches,
    build_graphs,
)
from smoacs.predictors.assessment import assess, tabulate
from smoacs.predictors.base import Predictor
from smoacs.templates import DesignSpace

if TYPE_CHECKING:
    from pymatgen.core import Structure

MIN_DISTANCE = 0.5  # Å; closer atoms are no crystal
_COORD_TOLERANCE = 1e-6
_ANGLE_TOLERANCE = 5.0  # degrees, of templates that limit their coordinates
_CELL = ("a", "b", "c", "alpha", "beta", "gamma")


@dataclass(frozen=True)
class Judge:
    """What a design is judged by.

    Attributes
    ----------
    objectives : sequence of Objective
    predictors : sequence of Predictor
        All their properties are reported; no two give the same.
    oxidation : OxidationTable
        Oxidation numbers for the check of charge neutrality.
    sites_per_batch : int
        Crystals are predicted together up to this number of sites.
    """

    objectives: Sequence[Objective]
    predictors: Sequence[Predictor]
    oxidation: OxidationTable
    sites_per_batch: int = SITES_PER_BATCH

    @property
    def properties(self) -> list[str]:
        """Names of all predicted properties."""
        return [p.name for model in self.predictors for p in model.properties]

    @property
    def criteria(self) -> list[str]:
        """Names of the criteria; the column ``<name>_ok`` or, for neutrality, ``neutral``."""
        return [*(objective.name for objective in self.objectives), "neutral", "geometry"]


def as_written(crystals: CrystalBatch) -> list[Structure]:
    """Discrete crystals exactly as a reader of their CIF files gets them.

    Results describe the files: the reader wraps coordinates into the cell and snaps them to
    thirds, which changes bonds (faults 1 and 2 of the published code).

    Parameters
    ----------
    crystals : CrystalBatch
        C crystals; their most probable elements count.

    Returns
    -------
    list of Structure, length C
        Sites in the order of the batch. A crystal that no CIF can hold, because sites coincide,
        is returned as it is; it fails the geometry criterion.
    """
    return [_as_read(structure) for structure in crystals.to_structures()]


def _as_read(structure: Structure) -> Structure:
    try:
        return read_cif(write_cif(structure))
    except ValueError:
        return structure


def evaluate_structures(
    structures: Sequence[Structure], candidates: Sequence[int], space: DesignSpace, judge: Judge
) -> pd.DataFrame:
    """All criteria of some candidates of a design.

    Parameters
    ----------
    structures : sequence of Structure, length n
        Sites in the order of their templates.
    candidates : sequence of int, length n
        Which candidate of the space each structure is.
    space : DesignSpace
        All candidates.
    judge : Judge

    Returns
    -------
    DataFrame with n rows
        The columns of results.csv except ``structure_file``. A property that cannot be predicted
        is nan; ``unique`` marks the first success of each kind. Where the predictors know their
        limits, ``PROPERTY_std`` is the expected error and ``in_domain`` whether their training
        data speak for the crystal.
    """
    space = space.select(torch.tensor(candidates, dtype=torch.int64, device=space.device))
    crystals = CrystalBatch.from_structures(structures, dtype=torch.float64)
    predicted, values = _predict(crystals, space, judge)
    distances = min_distances(crystals)
    geometry = geometry_ok(crystals, space) & (distances >= MIN_DISTANCE)
    assignments = [neutral_assignment(structure, judge.oxidation) for structure in structures]

    columns: dict[str, Any] = {
        "candidate": list(candidates),
        "success": False,
        "formula": [s.composition.reduced_formula for s in structures],
        "n_sites": [len(s) for s in structures],
        "template": [space.templates[t].name for t in space.template.tolist()],
        **{str(name): _double(column) for name, column in predicted.items()},
    }
    for objective in sorted(judge.objectives, key=lambda o: o.name not in columns):
        value = values[objective.name]
        columns.setdefault(objective.name, value)
        columns[f"{objective.name}_ok"] = _satisfied(objective, value)
    columns |= {
        "neutral": [assignment is not None for assignment in assignments],
        "oxidation_states": [format_assignment(a) if a else "" for a in assignments],
        "geometry_ok": geometry.numpy(),
        "min_distance": distances.numpy(),
    }
    columns |= dict(zip(_CELL, np.array([s.lattice.parameters for s in structures]).T, strict=True))
    table = pd.DataFrame(columns)
    table["success"] = table[_ok_columns(judge)].all(axis=1)
    table["unique"] = False
    succeeded = np.flatnonzero(table["success"]).tolist()
    table.loc[succeeded, "unique"] = first_of_kind([structures[i] for i in succeeded])
    return table


def summarise(table: pd.DataFrame, judge: Judge) -> dict[str, Any]:
    """Rates of a table of :func:`evaluate_structures`.

    Returns
    -------
    dict
        ``n_candidates``, ``n_success``; shares of the candidates ``success_rate`` and, by
        criterion, ``criteria``; shares of the successes ``unique_rate`` (distinct crystals) and
        ``distinct_compositions`` (distinct reduced formulas), None without a success.
    """
    successes = table[table["success"]]
    n = len(successes)
    return {
        "n_candidates": len(table),
        "n_success": n,
        "success_rate": n / len(table),
        "criteria": {
            name: float(table[column].mean())
            for name, column in zip(judge.criteria, _ok_columns(judge), strict=True)
        },
        "unique_rate": float(successes["unique"].sum()) / n if n else None,
        "distinct_compositions": successes["formula"].nunique() / n if n else None,
    }


def _double(column: pd.Series) -> np.ndarray:
    """Values of a column, numbers in double precision."""
    return column.to_numpy(np.float64 if column.dtype.kind == "f" else None)


def _ok_columns(judge: Judge) -> list[str]:
    return [name if name == "neutral" else f"{name}_ok" for name in judge.criteria]


def _satisfied(objective: Objective, values: np.ndarray) -> np.ndarray:
    return objective.satisfied(torch.from_numpy(values)).numpy() & np.isfinite(values)


def _predict(
    crystals: CrystalBatch, space: DesignSpace, judge: Judge
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Predictions (n rows) and objective values by name (n,); nan where a cell is collapsed."""
    values = {o.name: np.full(len(crystals), np.nan) for o in judge.objectives}
    sound = crystals.volume / crystals.n_sites > MIN_VOLUME_PER_SITE
    members = torch.nonzero(sound).flatten()
    parts = []
    with torch.no_grad():
        for batch in batches(members, crystals.n_sites, judge.sites_per_batch):
            part = crystals.select(batch).to(space.device, space.dtype)
            part_space = space.select(batch.to(space.device))
            assessment = assess(judge.predictors, part, build_graphs(judge.predictors, part))
            parts.append((batch, assessment))
            weights = pattern_weights(part, part_space)
            design = Design(part, weights, part_space, assessment.values)
            for objective in judge.objectives:
                value = objective.value(design).double().cpu()
                values[objective.name][batch.numpy()] = value.numpy()
    table = tabulate(parts, len(crystals), judge.properties)
    return table.drop(columns="outside", errors="ignore"), values


def pattern_weights(crystals: CrystalBatch, space: DesignSpace) -> Tensor:
    """One-hot weights (C, K) of the first oxidation pattern that allows all sites' elements.

    All zero where no pattern does: objectives that need a pattern are then not a number.
    """
    k = space.n_patterns
    elements = crystals.atomic_numbers[:, None] - 1
    fits = torch.stack(
        [
            space.allowed_under(torch.full_like(space.template, pattern))
            .gather(1, elements)
            .flatten()
            for pattern in range(k)
        ],
        dim=1,
    )
    misfits = torch.zeros(len(space), k, dtype=torch.int64, device=space.device)
    misfits = misfits.index_add(0, space.candidate_of_site, (~fits).long())
    possible = (misfits == 0) & space.pattern_exists
    first = possible & (possible.cumsum(1) == 1)
    return first.to(space.dtype)


def geometry_ok(crystals: CrystalBatch, space: DesignSpace) -> Tensor:
    """Whether crystals keep the limits of their templates, (C,) bool.

    Every coordinate within the limit of the ideal one, modulo 1; where coordinates are limited,
    also every angle within 5 degrees of the template's (a perovskite: 85 to 95 degrees).
    """
    ideal, limit = space.frac_coords.double().cpu(), space.coord_limits.double().cpu()
    offset = crystals.frac_coords - ideal
    inside = ((offset - offset.round()).abs() <= limit + _COORD_TOLERANCE).all(1)
    strays = torch.zeros(len(crystals), dtype=torch.int64)
    strays = strays.index_add(0, crystals.crystal_index, (~inside).long())
    limited = torch.isfinite(limit).all(1)[crystals.ptr[:-1]]
    bend = (_angles(crystals.lattice) - space.angles.double().cpu()).abs()
    return (strays == 0) & ((bend <= _ANGLE_TOLERANCE).all(1) | ~limited)


def _angles(lattice: Tensor) -> Tensor:
    """alpha, beta, gamma in degrees, (C, 3), of lattices (C, 3, 3)."""
    unit = torch.nn.functional.normalize(lattice, dim=2)
    cosines = torch.stack([(unit[:, i] * unit[:, j]).sum(1) for i, j in ((1, 2), (0, 2), (0, 1))])
    return torch.rad2deg(torch.acos(cosines.clamp(-1, 1))).T


def min_distances(crystals: CrystalBatch) -> Tensor:
    """Shortest distance between two atoms, periodic images included, (C,) in Å.

    Not a number where a cell has collapsed.
    """
    shortest = crystals.lattice.new_full((len(crystals),), float("nan"))
    sound = crystals.volume / crystals.n_sites > MIN_VOLUME_PER_SITE
    pending = torch.nonzero(sound).flatten()
    cutoff = 2.0
    while pending.numel():
        part = crystals.select(pending)
        pairs = neighbor_list(part.frac_coords, part.lattice, part.ptr, cutoff=cutoff)
        nearest = part.lattice.new_full((len(part),), float("inf"))
        nearest = nearest.scatter_reduce(0, part.crystal_index[pairs.src], pairs.distance, "amin")
        shortest[pending] = nearest
        pending = pending[torch.isinf(nearest)]
        cutoff *= 2
    return shortest
