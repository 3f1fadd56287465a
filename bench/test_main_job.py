"""The main job: how its steps divide, and how long whole runs take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from race import OURS, Place
from record import Case, Goal
from smoacs import IonicContacts, Minimize, ToleranceFactor, Window, design, templates
from smoacs.agreement import with_opinions
from smoacs.config import DEFAULT_PREDICTORS
from smoacs.job import load_predictors
from smoacs.mutation import Mutation
from smoacs.optimizer import Optimizer
from smoacs.predictors.base import Predictor
from smoacs.schedules import PRESETS
from workloads import BAND_GAP, FORMATION_ENERGY, full_size_alignn

SUITE = "main job"
STEPS = 200
TARGETS = [Window("band_gap", 2.5, 0.2), Minimize("formation_energy", below=-0.5)]
PEROVSKITE = [*TARGETS, ToleranceFactor(0.8, 1.0), IonicContacts()]
PARTS = {
    "graph": ("smoacs::neighbor_list", "smoacs::line_graph"),
    "masks": ("smoacs::masked_softmax", "smoacs::masked_softmax_backward"),
    "mutation": ("smoacs::resample", "smoacs::random"),
}
PATIENCE = 40.0  # s, after which a run on a GPU is not finished but extrapolated


def optimizer(
    n: int, supercell: tuple[int, int, int], predictors: Sequence[Predictor], device: str
) -> Optimizer:
    """The loop at its start, with a mutation now and then."""
    elements = frozenset.intersection(*(predictor.elements for predictor in predictors))
    template = templates.perovskite(supercell).restrict(elements)
    space = templates.DesignSpace.create([template], n, device=device)
    preset = replace(PRESETS["default"], mutation=Mutation((0.05, 0.1)))
    predictors = [predictor.to(device) for predictor in predictors]
    objectives = with_opinions(PEROVSKITE, predictors)
    return Optimizer(space, objectives, predictors, preset, STEPS, seed=0)


def test_share_of_everything_but_prediction(session: Any, full_place: Place) -> None:
    """Over the first 25 of 200 steps: one round with its restart, and two mutations."""
    models = load_predictors(DEFAULT_PREDICTORS, torch.device(full_place.device))
    loop = optimizer(256, (1, 1, 1), models, full_place.device)
    loop.step()
    on_gpu = full_place.device == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        for _ in range(25):
            loop.step()
        if on_gpu:
            torch.cuda.synchronize()
        total = time.perf_counter() - start
    spent = {event.key: event.cpu_time_total * 1e-6 for event in profiler.key_averages()}
    # On a GPU the host's time in an op is counted too, which is more than the device's.
    parts = {name: [spent[key] for key in keys] for name, keys in PARTS.items()}
    shares = {name: 100 * sum(seconds) / total for name, seconds in parts.items()}
    session.add(
        Case(
            SUITE,
            "share of a step: graph, masks and mutation; both bundled models, 256 x 5 atoms",
            str(full_place),
            "%",
            {OURS: sum(shares.values()), **shares},
            goals=(Goal(limit=5.0),),
        )
    )


@pytest.mark.long
def test_bundled_models(session: Any, all_threads: Place) -> None:
    start = time.perf_counter()
    run = design(templates.perovskite(), PEROVSKITE, candidates=256, steps=STEPS, device="cpu")
    seconds = time.perf_counter() - start
    assert len(run.table) == 256
    session.add(
        Case(
            SUITE,
            "256 candidates, 200 steps, both bundled models, with start and evaluation",
            str(all_threads),
            "s",
            {OURS: seconds},
            size=256,
            size_of="candidates",
            goals=(Goal(limit=60.0),),
        )
    )


@pytest.mark.cuda
@pytest.mark.long
@pytest.mark.parametrize(
    ("n", "supercell", "limit"), [(256, (1, 1, 1), 10.0), (32, (3, 3, 3), 30.0)]
)
def test_two_full_size_models(
    session: Any, n: int, supercell: tuple[int, int, int], limit: float
) -> None:
    """No weights but random ones are needed to take the time; no candidate rests early."""
    models = [full_size_alignn(prop=prop) for prop in (BAND_GAP, FORMATION_ENERGY)]
    loop = optimizer(n, supercell, models, "cuda")
    loop.step()  # libraries are loaded and memory is found
    torch.cuda.synchronize()
    start = time.perf_counter()
    done = 0
    while done < STEPS - 1 and time.perf_counter() - start < PATIENCE:
        loop.step()
        done += 1
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) * STEPS / done
    n_sites = loop.space.n_sites // n
    session.add(
        Case(
            SUITE,
            f"{n} x {n_sites} atoms, 200 steps, two ALIGNNs (hidden 256, 4 + 4 layers)",
            str(Place("cuda", 1)),
            "s",
            {OURS: seconds},
            size=done + 1,
            size_of="steps done",
            goals=(Goal(limit=limit),),
        )
    )
