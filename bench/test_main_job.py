"""The main job: how its steps divide, and how long whole runs take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from race import OURS, Place
from record import Case, Goal
from smoacs import IonicContacts, Minimize, ToleranceFactor, Window, design, templates
from smoacs.agreement import with_opinions
from smoacs.config import DEFAULT_PREDICTORS
from smoacs.job import load_predictors
from smoacs.mutation import Mutation
from smoacs.ops import ConvolutionWeights
from smoacs.optimizer import Optimizer
from smoacs.predictors.base import Predictor
from smoacs.schedules import PRESETS
from workloads import BAND_GAP, FORMATION_ENERGY, full_size_alignn

SUITE, DIVISION = "main job", "main job, a step by operation"
BOTH = "both bundled models"
ALIGNN = "smoacs-alignn-mp"
APART = f"{ALIGNN} with separate operations"
STEPS = 200
TARGETS = [Window("band_gap", 2.5, 0.2), Minimize("formation_energy", below=-0.5)]
PEROVSKITE = [*TARGETS, ToleranceFactor(0.8, 1.0), IonicContacts()]
# What the profiler calls them; most have another for the gradients.
OPERATIONS = {
    "convolutions: products, messages, norms": (
        "smoacs::convolution",
        "smoacs::convolution_backward",
    ),
    "matrix products": ("smoacs::matrix_product", "aten::mm", "aten::addmm", "aten::bmm"),
    "gated messages": ("smoacs::gated_messages", "smoacs::gated_messages_backward"),
    "norm and SiLU": ("smoacs::norm_silu", "smoacs::norm_silu_backward"),
    "activations": ("smoacs::activation", "smoacs::activation_backward"),
    "interpolation": (
        "smoacs::interpolate",
        "smoacs::interpolate_backward",
        "smoacs::interpolation_table_backward",
    ),
    "lattice attention": (
        "smoacs::lattice_attention",
        "smoacs::lattice_attention_backward",
        "_LatticeAttention",
        "_LatticeAttentionBackward",
    ),
    "cosines of pairs": ("smoacs::pair_cosines", "smoacs::pair_cosines_backward"),
    "edge vectors": ("smoacs::edge_vectors", "smoacs::edge_vectors_backward"),
    "graph": ("smoacs::neighbor_list", "smoacs::line_graph"),
    "masks": ("smoacs::masked_softmax", "smoacs::masked_softmax_backward"),
    "mutation": ("smoacs::resample", "smoacs::random"),
}
ASIDE = ("graph", "masks", "mutation")  # what is not prediction
OPERATION_OF = {name: operation for operation, names in OPERATIONS.items() for name in names}
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
@pytest.mark.parametrize(("n", "supercell"), [(256, (1, 1, 1)), (32, (3, 3, 3))])
def test_two_full_size_models(session: Any, n: int, supercell: tuple[int, int, int]) -> None:
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
        )
    )


def divided(loop: Optimizer, steps: int, on_gpu: bool) -> dict[str, float]:
    """Seconds of a step, and of its operations without the others that they call.

    They are taken by torch's profiler, whose own part, up to a tenth, goes to the rest. On a GPU an
    operation's time is that of its kernels; the rest includes what the GPU waits.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        for _ in range(steps):
            loop.step()
        if on_gpu:
            torch.cuda.synchronize()
        total = (time.perf_counter() - start) / steps
    spent: Counter[str] = Counter()
    for event in profiler.events():
        if event.name not in OPERATION_OF or event.device_type != DeviceType.CPU:
            continue
        micros = event.device_time_total if on_gpu else event.cpu_time_total
        spent[OPERATION_OF[event.name]] += micros * 1e-6 / steps
        caller = event.cpu_parent
        while caller is not None and caller.name not in OPERATION_OF:
            caller = caller.cpu_parent
        if caller is not None:
            spent[OPERATION_OF[caller.name]] -= micros * 1e-6 / steps
    parts = {name: spent[name] for name in OPERATIONS if spent[name] > 0}
    return {OURS: total, **parts, "the rest": total - sum(parts.values())}


@pytest.mark.parametrize("models", [*DEFAULT_PREDICTORS, APART, BOTH])
def test_a_step_by_operation(session: Any, full_place: Place, models: str) -> None:
    """Both models over the first 25 of 200 steps: a round with its restart, and two mutations.

    On a CPU the parts of ALIGNN's convolution cannot be told apart, but in the form for training.
    """
    on_gpu = full_place.device == "cuda"
    if models == APART and on_gpu:
        pytest.skip("operations are separate on a GPU")
    names = {BOTH: DEFAULT_PREDICTORS, APART: [ALIGNN]}.get(models, [models])
    predictors = load_predictors(names, torch.device(full_place.device))
    loop = optimizer(256, (1, 1, 1), predictors, full_place.device)
    with patch.object(ConvolutionWeights, "frozen", models != APART):
        loop.step()
        values = divided(loop, 25 if models == BOTH else 5, on_gpu)
    name, place = f"{models}, 256 x 5 atoms", str(full_place)
    session.add(Case(DIVISION, name, place, "s", values, division=True))
    if models != BOTH:
        return
    shares = {part: 100 * values[part] / values[OURS] for part in ASIDE}
    session.add(
        Case(
            SUITE,
            f"share of a step: graph, masks and mutation; {name}",
            place,
            "%",
            {OURS: sum(shares.values()), **shares},
            goals=(Goal(limit=5.0),),
        )
    )


def test_every_operation_has_its_place() -> None:
    registered = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    ours = {name for name in registered if name.startswith("smoacs::")}
    assert ours == {name for name in OPERATION_OF if name.startswith("smoacs::")}
