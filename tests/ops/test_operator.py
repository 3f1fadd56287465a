"""Operators of torch: cheap to load, left alone by the compiler."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cells import CUBIC
from smoacs.ops import edge_vectors, neighbor_list
from smoacs.ops._operator import operator

_EVERY_OPERATOR = """
import sys
from pathlib import Path

import torch

import smoacs.ops as ops

ptr, lattice = torch.tensor([0, 2]), 4 * torch.eye(3)[None].requires_grad_()
coords = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], requires_grad=True)
bonds = ops.neighbor_list(coords, lattice, ptr, cutoff=4.0)
pairs = ops.line_graph(bonds)
ops.edge_vectors(coords, lattice, bonds).square().sum().backward()
logits, patterns = torch.zeros(2, 3, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
mask = torch.ones(2, 1, 3, dtype=torch.bool)
composition, weights = ops.masked_softmax(logits, patterns, mask, ptr, 0.1)
composition.square().sum().backward()
one = torch.tensor([0])
ops.random_normal(0, one, 0, 0, ptr, 3)
ops.resample(coords, ptr, one, one, 0.1, 0, 0, 0)

print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def test_no_operator_loads_the_compiler():
    result = subprocess.run(
        [sys.executable, "-c", _EVERY_OPERATOR], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_kernels_outside_of_graphs_are_not_compiled():
    def last_key(frac_coords):
        keys = []

        def key(coords):  # called back by compiled code of Python itself
            bonds = neighbor_list(coords, CUBIC.lattice, CUBIC.ptr, cutoff=3.0)
            keys.append(edge_vectors(coords, CUBIC.lattice, bonds))
            return 0

        sorted([frac_coords], key=key)
        return keys[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Dynamo complains about compiled modules
        compiled = torch.compile(last_key, backend="aot_eager")
        assert torch.equal(compiled(CUBIC.frac_coords), last_key(CUBIC.frac_coords))


def test_constant_results_need_no_gradient():
    coords = CUBIC.frac_coords.clone().requires_grad_()
    arguments = (coords, CUBIC.lattice, CUBIC.ptr, "radius", 3.0, 0, 0.0, None)
    *_, distance, _ = torch.ops.smoacs.neighbor_list(*arguments)
    assert len(distance) > 0
    assert not distance.requires_grad


@operator(
    "test_scaled_sum",
    fake=lambda x, factors: torch.empty_like(x),
    backward=lambda ctx, grad: (
        grad * sum(ctx.saved_tensors[1:]),
        [(grad * ctx.saved_tensors[0]).sum() for _ in ctx.saved_tensors[1:]],
    ),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0], *inputs[1]),
)
def scaled_sum(x: torch.Tensor, factors: list[torch.Tensor]) -> torch.Tensor:
    return x * sum(factors)


@pytest.mark.parametrize("learned", [False, True])
def test_tensors_in_lists_are_differentiated_where_they_need_be(learned):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    factors = [torch.tensor(3.0, requires_grad=learned), torch.tensor(4.0)]
    scaled_sum(x, factors).sum().backward()
    assert torch.equal(x.grad, torch.tensor([7.0, 7.0]))
    assert factors[0].grad == (3.0 if learned else None)
    assert factors[1].grad is None


def _names_seen(mode) -> set[str]:
    coords = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], requires_grad=True)
    lattice, ptr = 4 * torch.eye(3)[None], torch.tensor([0, 2])
    with mode:
        bonds = neighbor_list(coords, lattice, ptr, cutoff=4.0)
        edge_vectors(coords, lattice, bonds).square().sum().backward()
    return set(mode.names() if isinstance(mode, _Log) else (e.key for e in mode.key_averages()))


class _Log(TorchDispatchMode):
    """Keeps the names of all operators."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))

    def names(self) -> list[str]:
        return self._seen


@pytest.mark.parametrize("watch", [_Log, torch.profiler.profile])
def test_who_watches_sees_the_operators(watch):
    seen = _names_seen(watch())
    assert {"smoacs::edge_vectors", "smoacs::edge_vectors_backward"} <= seen
