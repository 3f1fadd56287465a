"""Masked softmax, forward and backward, beside the paper's formula in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import machine
import peers
import workloads
from peers import Peer, Peers
from race import Function, Place
from record import Goal
from smoacs.ops import masked_softmax
from workloads import Softmax

SUITE = "masked softmax, forward and backward"
EAGER, COMPILED = "torch, eager", "torch.compile"
SIZES = {  # sites, patterns, sites per crystal
    "1,280 sites, 10 patterns": (1280, 10, 5),
    "17,280 sites, 2 patterns": (17_280, 2, 135),
}
MANY = {"1,000,000 sites, 2 patterns": (1_000_000, 2, 5)}


def both_ways(formula: Callable[[Tensor, Tensor], Tensor], work: Softmax) -> Function:
    """A function that evaluates a formula and its gradients."""
    a = work.element_logits.detach().requires_grad_()
    w = work.pattern_logits.detach().requires_grad_()
    grad = torch.linspace(-1, 2, a.numel(), device=a.device).sin().reshape(a.shape)
    return lambda: torch.autograd.grad(formula(a, w), [a, w], grad)


def ours(work: Softmax, masking: str) -> Function:
    """Our op, in one of its two forms."""

    def formula(a: Tensor, w: Tensor) -> Tensor:
        return masked_softmax(a, w, work.packed, work.ptr, work.temperature, masking=masking)[0]

    return both_ways(formula, work)


def others(work: Softmax, only: str | None = None) -> Peers:
    """The formula as written, and compiled where torch finds a compiler."""

    def formula(a: Tensor, w: Tensor) -> Tensor:
        return peers.softmax_formula(work, a, w)

    found = {EAGER: Peer(both_ways(formula, work))}
    if only is None:
        found[COMPILED] = Peer(both_ways(torch.compile(formula), work))
    return Peers(found).tried()


def test_the_formula_is_the_same() -> None:
    """The peers compute what ours computes in its published form."""
    work = workloads.softmax(40, 3, 5, "cpu")
    for mine, theirs in zip(
        ours(work, "paper")(), others(work, EAGER).present[EAGER].run(), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.guard
@pytest.mark.parametrize("masking", ["exact", "paper"])
@pytest.mark.parametrize("name", SIZES)
def test_design_sizes(compare: Any, place: Place, name: str, masking: str) -> None:
    work = workloads.softmax(*SIZES[name], place.device)
    compare(
        SUITE,
        f"{name}, {masking}",
        place,
        ours(work, masking),
        others(work, compare.only(EAGER)),
        size=(len(work.element_logits), "sites"),
        floor=(f"{work.n_bytes / 1e6:.3g} MB, copied", machine.copy(work.n_bytes, place.device)),
        goals=(Goal(10, EAGER),) if place.device == "cpu" else (),
        reference=EAGER,
    )


@pytest.mark.cuda
@pytest.mark.parametrize("name", MANY)
def test_many_sites_on_a_gpu(compare: Any, name: str) -> None:
    place = Place("cuda", torch.get_num_threads())
    work = workloads.softmax(*MANY[name], "cuda")
    compare(
        SUITE,
        f"{name}, exact",
        place,
        ours(work, "exact"),
        others(work, compare.only(EAGER)),
        size=(len(work.element_logits), "sites"),
        floor=(f"{work.n_bytes / 1e9:.3g} GB, copied", machine.copy(work.n_bytes, "cuda")),
        reference=EAGER,
    )


@pytest.mark.cuda
@pytest.mark.parametrize("name", SIZES)
def test_in_a_cuda_graph(compare: Any, name: str) -> None:
    """Without the host's part, which is longer than the GPU's when sites are few."""
    place = Place("cuda", torch.get_num_threads())
    work = workloads.softmax(*SIZES[name], "cuda")
    function = ours(work, "exact")
    compare(
        SUITE,
        f"{name}, exact, in a CUDA graph",
        place,
        peers.captured(function),
        Peers({"launched one by one": Peer(function)}),
        size=(len(work.element_logits), "sites"),
    )


@pytest.mark.parametrize("name", SIZES)
def test_threads(compare: Any, all_threads: Place, name: str) -> None:
    work = workloads.softmax(*SIZES[name], "cpu")
    compare.scaling(
        SUITE,
        f"{name}, exact",
        all_threads,
        ours(work, "exact"),
        size=(len(work.element_logits), "sites"),
    )
