"""Predictors of different origin in one run share graphs, and each runs once."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from analytic import AnalyticPredictor
from smoacs.chemistry import oxidation_table
from smoacs.crystals import CrystalBatch
from smoacs.evaluation import Judge, as_written, evaluate_structures
from smoacs.objectives import IonicContacts, Minimize, Objective, ToleranceFactor, Window
from smoacs.optimizer import Optimizer
from smoacs.predictors import base
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.schedules import PRESETS
from smoacs.templates import DesignSpace, perovskite


class Counting(AnalyticPredictor):
    """Counts its calls and keeps the graphs; gives two properties under names of its own."""

    def __init__(self, prefix: str, graph: GraphSpec) -> None:
        super().__init__()
        self.name, self.graph = prefix, graph
        self.properties = tuple(
            Property(f"{prefix}_{p.name}", p.unit, p.low, p.high) for p in super().properties
        )
        self.graphs: list[Graph | None] = []

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> dict[str, Tensor]:
        self.graphs.append(graph)
        values = super().predict(crystals, graph).values()
        return {p.name: value for p, value in zip(self.properties, values, strict=True)}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple]:
    """How often neighbour lists were made, by cutoff and rule."""
    count: Counter[tuple] = Counter()
    original = base.neighbor_list

    def counted(*args: object, **options: object) -> object:
        count[options["cutoff"], options["rule"]] += 1
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(base, "neighbor_list", counted)
    return count


def models() -> list[Counting]:
    near, far = GraphSpec(cutoff=4.5), GraphSpec(cutoff=6.0)
    return [
        Counting("one", near),
        Counting("two", GraphSpec(cutoff=4.5)),
        Counting("three", far),
        Counting("idle", GraphSpec(cutoff=3.0)),
    ]


TARGETS: list[Objective] = [
    Window("one_band_gap", 2.5, 0.2),
    Minimize("one_formation_energy", below=-0.5),
    Window("two_band_gap", 2.5, 0.5),
    Minimize("three_formation_energy", below=0.0),
]


def test_a_step_builds_each_graph_once_and_runs_each_model_once(built: Counter[tuple]) -> None:
    predictors = models()
    space = DesignSpace.create([perovskite()], 6, dtype=torch.float64)
    loop = Optimizer(space, TARGETS, predictors, PRESETS["default"], 20, 0)
    for step in range(1, 4):
        loop.step()
        assert built == {(4.5, "radius"): step, (6.0, "radius"): step}
        assert [len(p.graphs) for p in predictors] == [step, step, step, 0]
    one, two, three = (p.graphs[-1] for p in predictors[:3])
    assert one is two
    assert one is not three


def test_a_step_works_out_the_ionic_radii_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = DesignSpace.radii
    monkeypatch.setattr(DesignSpace, "radii", lambda *x: seen.append(1) or original(*x))
    space = DesignSpace.create([perovskite()], 6, dtype=torch.float64)
    targets = [*TARGETS, ToleranceFactor(0.8, 1.0), IonicContacts()]
    loop = Optimizer(space, targets, models(), PRESETS["default"], 20, 0)
    before = len(seen)  # first lattices come from radii
    loop.step()
    assert len(seen) == before + 1


def test_judging_results_does_likewise(built: Counter[tuple]) -> None:
    predictors = models()
    space = DesignSpace.create([perovskite()], 3, dtype=torch.float64)
    loop = Optimizer(space, TARGETS, predictors, PRESETS["default"], 1, 0)
    crystals, _ = loop.result()
    judge = Judge(TARGETS, predictors, oxidation_table("smoacs"))
    table = evaluate_structures(as_written(crystals), range(3), space, judge)
    assert set(built.values()) == {1}
    assert [len(p.graphs) for p in predictors] == [1, 1, 1, 1]
    assert "idle_band_gap" in table
