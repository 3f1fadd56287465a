"""Gated message sums equal plain torch, forward and backward, whatever surrounds a node."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoacs.ops import Incidence, gated_messages, reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
EPS = 1e-6
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
}


class Case(NamedTuple):
    """Inputs of the op, and gradients of its results."""

    features: list[Tensor]
    ends: tuple[Tensor, Tensor]
    grads: tuple[Tensor, Tensor]


def case(
    n_nodes: int, n_edges: int, width: int, device: str = "cpu", dtype: torch.dtype = torch.float64
) -> Case:
    generator = torch.Generator().manual_seed(n_nodes + 7 * n_edges + 31 * width)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, width, generator=generator, dtype=torch.float64).to(device, dtype)

    features = [normal(n_edges), *(normal(n_nodes) for _ in range(3))]
    features = [x.requires_grad_() for x in features]
    src, dst = torch.randint(0, max(n_nodes, 1), (2, n_edges), generator=generator).to(device)
    return Case(features, (src, dst), (normal(n_edges), normal(n_nodes)))


def both(op, features: list[Tensor], *arguments: object, grads) -> tuple[Tensor, ...]:
    """Results and gradients."""
    results = op(*features, *arguments, eps=EPS)
    return *(x.detach() for x in results), *torch.autograd.grad(results, features, grads)


def fused(case: Case) -> tuple[Tensor, ...]:
    incidence = Incidence.of(*case.ends, len(case.features[1]))
    return both(gated_messages, case.features, incidence, grads=case.grads)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("n_nodes", "n_edges", "width"),
    [(0, 0, 3), (1, 0, 5), (1, 1, 1), (1, 9, 8), (7, 40, 64), (30, 500, 37), (9, 60, 300)],
)
def test_equals_reference(
    n_nodes: int, n_edges: int, width: int, dtype: torch.dtype, device: str
) -> None:
    inputs = case(n_nodes, n_edges, width, device, dtype)
    wanted = both(reference.gated_messages, inputs.features, *inputs.ends, grads=inputs.grads)
    torch.testing.assert_close(fused(inputs), wanted, **TOLERANCE[dtype])


@settings(max_examples=30, deadline=None)
@given(n_nodes=st.integers(1, 12), n_edges=st.integers(0, 40), width=st.integers(1, 70))
def test_equals_reference_on_any_graph(n_nodes: int, n_edges: int, width: int) -> None:
    inputs = case(n_nodes, n_edges, width)
    wanted = both(reference.gated_messages, inputs.features, *inputs.ends, grads=inputs.grads)
    torch.testing.assert_close(fused(inputs), wanted, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_of_finite_differences(device: str) -> None:
    inputs = case(4, 9, 3, device)
    incidence = Incidence.of(*inputs.ends, 4)
    assert torch.autograd.gradcheck(
        lambda *x: gated_messages(*x, incidence, eps=EPS), inputs.features
    )


def test_either_result_may_stay_unused() -> None:
    inputs = case(4, 9, 3)
    incidence = Incidence.of(*inputs.ends, 4)
    logits, mean = gated_messages(*inputs.features, incidence, eps=EPS)
    zeros = torch.zeros_like(logits), torch.zeros_like(mean)
    for used, grads in (
        (logits, (torch.ones_like(logits), zeros[1])),
        (mean, (zeros[0], torch.ones_like(mean))),
    ):
        found = torch.autograd.grad(used.sum(), inputs.features, retain_graph=True)
        wanted = both(reference.gated_messages, inputs.features, *inputs.ends, grads=grads)[2:]
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_extreme_logits_saturate(device: str) -> None:
    edge = torch.tensor([[-200.0], [200.0], [-1e30], [torch.inf]], device=device).requires_grad_()
    zeros = torch.zeros(4, 1, device=device)
    values = torch.tensor([[1.0], [2.0], [3.0], [4.0]], device=device).requires_grad_()
    src, dst = torch.arange(4, device=device), torch.tensor([0, 0, 1, 2], device=device)
    _, mean = gated_messages(edge, zeros, zeros, values, Incidence.of(src, dst, 4), eps=EPS)
    wanted = torch.tensor([[2.0], [0.0], [4.0], [0.0]], device=device)
    torch.testing.assert_close(mean, wanted, rtol=1e-5, atol=1e-12)
    assert all(torch.isfinite(x).all() for x in torch.autograd.grad(mean.sum(), (edge, values)))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_neither_batch_nor_threads_matter(dtype: torch.dtype) -> None:
    sizes = [(30, 400), (1, 14), (70, 1000), (5, 0)]
    width = 40
    cases = [case(*size, width, dtype=dtype) for size in sizes]
    offsets = torch.tensor([0, *(n for n, _ in sizes)]).cumsum(0).tolist()
    whole = Case(
        [torch.cat(parts) for parts in zip(*(c.features for c in cases), strict=True)],
        tuple(
            torch.cat([ends + start for ends, start in zip(parts, offsets[:-1], strict=True)])
            for parts in zip(*(c.ends for c in cases), strict=True)
        ),
        tuple(torch.cat(parts) for parts in zip(*(c.grads for c in cases), strict=True)),
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = fused(whole)
        torch.set_num_threads(1)
        for found, parts in zip(together, zip(*map(fused, cases), strict=True), strict=True):
            assert torch.equal(found, torch.cat(parts))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.cuda
def test_cuda_repeats_itself_and_equals_the_cpu() -> None:
    on_gpu = case(100, 3000, 64, "cuda", torch.float32)
    first, again = fused(on_gpu), fused(on_gpu)
    assert all(map(torch.equal, first, again))
    on_cpu = fused(case(100, 3000, 64, "cpu", torch.float32))
    for found, wanted in zip(first, on_cpu, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-5, atol=1e-5)


def test_operators_are_sound() -> None:
    inputs = case(5, 12, 6)
    incidence = Incidence.of(*inputs.ends, 5)
    torch.library.opcheck(torch.ops.smoacs.gated_messages, (*inputs.features, *incidence, EPS))
    logits, mean, norm = torch.ops.smoacs.gated_messages(*inputs.features, *incidence, EPS)
    for grad_logits in (inputs.grads[0], None):
        arguments = (grad_logits, inputs.grads[1], logits, inputs.features[3], mean, norm)
        torch.library.opcheck(
            torch.ops.smoacs.gated_messages_backward,
            (*(x if x is None else x.detach() for x in arguments), *incidence),
        )


def test_second_derivative_is_refused() -> None:
    inputs = case(4, 9, 3)
    _, mean = gated_messages(*inputs.features, Incidence.of(*inputs.ends, 4), eps=EPS)
    (grad,) = torch.autograd.grad(mean.sum(), inputs.features[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no derivative"):
        torch.autograd.grad(grad.sum(), inputs.features[0])


def test_incidence() -> None:
    incidence = Incidence.of(torch.tensor([2, 0, 2, 1]), torch.tensor([0, 0, 3, 0]), 4)
    assert incidence.n_nodes == 4
    assert incidence.by_src.tolist() == [1, 3, 0, 2]
    assert incidence.first_out.tolist() == [0, 1, 2, 4, 4]
    assert incidence.by_dst.tolist() == [0, 1, 3, 2]
    assert incidence.first_in.tolist() == [0, 3, 3, 3, 4]


@pytest.mark.cuda
def test_incidence_on_a_gpu() -> None:
    ends = case(50, 700, 1).ends
    on_gpu = Incidence.of(ends[0].cuda(), ends[1].cuda(), 50)
    for found, wanted in zip(on_gpu, Incidence.of(*ends, 50), strict=True):
        assert torch.equal(found.cpu(), wanted)


def test_bad_input() -> None:
    inputs = case(3, 4, 2)
    edge, src_gate, dst_gate, values = (x.detach() for x in inputs.features)
    incidence = Incidence.of(*inputs.ends, 3)
    with pytest.raises(ValueError, match="row 1 belongs to group 3, but there are 3 groups"):
        Incidence.of(torch.tensor([0, 3]), torch.tensor([0, 0]), 3)
    with pytest.raises(ValueError, match="belongs to group -1"):
        Incidence.of(torch.tensor([0, 1]), torch.tensor([-1, 0]), 3)
    with pytest.raises(TypeError, match="src must be int64"):
        Incidence.of(torch.tensor([0.0]), torch.tensor([0]), 3)
    with pytest.raises(ValueError, match=r"dst must have shape \(2\)"):
        Incidence.of(torch.tensor([0, 1]), torch.tensor([0]), 3)
    with pytest.raises(ValueError, match=r"edge must have shape \(4, any\)"):
        gated_messages(edge[:3], src_gate, dst_gate, values, incidence, eps=EPS)
    with pytest.raises(ValueError, match=r"values must have shape \(3, 2\)"):
        gated_messages(edge, src_gate, dst_gate, values[:, :1], incidence, eps=EPS)
    with pytest.raises(TypeError, match="dst_gate must be float64"):
        gated_messages(edge, src_gate, dst_gate.float(), values, incidence, eps=EPS)
