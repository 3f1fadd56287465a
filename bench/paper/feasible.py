"""How many compositions can succeed at all: python bench/paper/feasible.py [PREDICTOR ...].

Predicts undistorted cubic cells of six sizes of every perovskite that the masks allow, one of each
composition, and counts the compositions with a cell that meets all standard criteria.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from smoacs.agreement import with_opinions
from smoacs.config import DEFAULT_PREDICTORS
from smoacs.crystals import CrystalBatch
from smoacs.job import load_predictors
from smoacs.objectives import Design, IonicContacts, Minimize, Objective, ToleranceFactor, Window
from smoacs.optimizer import build_graphs, predict_all
from smoacs.templates import DesignSpace, perovskite

GAPS = (0.5, 2.5, 4.0)
SIZES = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1)  # in units of two radii of B and X end to end
BATCH = 1536


def compositions(space: DesignSpace) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Oxidation pattern and rows of the elements of A, B and three X, each composition once."""
    (template,) = space.templates
    first = [template.roles.index(role) for role in ("A", "B", "X")]
    seen = set()
    for pattern, allowed in enumerate(template.allowed.transpose(1, 0, 2)):
        a, b, x = (np.flatnonzero(allowed[site]).tolist() for site in first)
        anions = itertools.combinations_with_replacement(x, 3)
        for one, two, three in itertools.product(a, b, list(anions)):
            formula = tuple(sorted((one, two, *three)))
            if formula not in seen:
                seen.add(formula)
                yield pattern, (one, two, *three)


def all_satisfied(objectives: Sequence[Objective], design: Design) -> Tensor:
    """Whether designs meet all objectives, (C,) bool."""
    return torch.stack([o.satisfied(o.value(design)) for o in objectives]).all(0)


def main() -> None:
    """Count and print."""
    predictors = load_predictors(sys.argv[1:] or DEFAULT_PREDICTORS, torch.device("cpu"))
    criteria = [
        Minimize("formation_energy", below=-0.5),
        ToleranceFactor(0.8, 1.0),
        IonicContacts(),
    ]
    criteria = with_opinions(criteria, predictors)
    windows = [with_opinions([Window("band_gap", gap, 0.2)], predictors) for gap in GAPS]
    candidates = list(compositions(DesignSpace.create([perovskite()], 1)))
    found = torch.zeros(len(candidates), len(GAPS), dtype=torch.bool)
    for rows in torch.arange(len(candidates)).split(BATCH):
        space = DesignSpace.create([perovskite()], len(rows))
        patterns, elements = zip(*(candidates[i] for i in rows.tolist()), strict=True)
        one_hot = torch.nn.functional.one_hot
        composition = one_hot(torch.tensor(elements).flatten(), 98).to(space.dtype)
        weights = one_hot(torch.tensor(patterns), space.n_patterns).to(space.dtype)
        radii = space.radii(composition, weights)
        length = 2 * (space.role_mean(radii, "B") + space.role_mean(radii, "X"))
        for size in SIZES:
            lattice = torch.eye(3) * (size * length)[:, None, None]
            crystals = CrystalBatch(lattice, space.frac_coords, composition, space.ptr)
            with torch.no_grad():
                properties = predict_all(predictors, crystals, build_graphs(predictors, crystals))
                design = Design(crystals, weights, space, properties)
                ok = all_satisfied(criteria, design)
                gaps = torch.stack([all_satisfied(window, design) for window in windows], dim=1)
            found[rows] |= gaps & ok[:, None]
    print(f"{len(candidates)} compositions")
    for gap, count in zip(GAPS, found.sum(0).tolist(), strict=True):
        print(f"{gap} eV: {count}")


if __name__ == "__main__":
    main()
