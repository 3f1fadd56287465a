"""Gated message sums equal plain torch, forward and backward, whatever surrounds a node."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cells import CELLS
from smoacs.ops import (
    Incidence,
    LineGraph,
    edge_vectors,
    gated_messages,
    line_graph,
    neighbor_list,
    reference,
)

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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n_nodes", "n_edges", "width"), [(0, 0, 3), (1, 4, 5), (9, 60, 300)])
def test_rows_that_are_no_edges_take_no_part(
    n_nodes: int, n_edges: int, width: int, device: str
) -> None:
    edges = case(n_nodes, n_edges, width, device)
    wanted = fused(edges)
    at = torch.randperm(n_edges + 25, generator=torch.Generator().manual_seed(0))[:n_edges]
    at = at.sort().values.to(device)  # padding between the edges, not only behind them

    def spread(rows: Tensor, fill: float) -> Tensor:
        return rows.new_full((n_edges + 25, *rows.shape[1:]), fill).index_copy(0, at, rows)

    edge, *of_nodes = (x.detach() for x in edges.features)
    padded = Case(
        [x.requires_grad_() for x in (spread(edge, torch.nan), *of_nodes)],
        tuple(spread(ends, n_nodes) for ends in edges.ends),
        (spread(edges.grads[0], torch.nan), edges.grads[1]),
    )
    logits, mean, grad_edge, *grads = fused(padded)
    for found, compact in ((logits, wanted[0]), (grad_edge, wanted[2])):
        assert torch.equal(found, spread(compact, 0.0))
    assert all(map(torch.equal, (mean, *grads), (wanted[1], *wanted[3:])))


def incidence_without_check(src: Tensor, dst: Tensor, n_nodes: int) -> Incidence:
    """What a GPU makes of ends that it cannot check in time."""
    sorted_ends = []
    for ends in (src, dst):
        ordered, rows = torch.sort(ends.where(ends >= 0, n_nodes), stable=True)
        first = torch.searchsorted(ordered, torch.arange(n_nodes + 1, device=ends.device))
        sorted_ends += [rows, first]
    return Incidence(src, dst, *sorted_ends)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrong", [6, 7, -1, 2**62, -(2**62)])
def test_ends_that_are_no_nodes_give_nan_and_are_not_followed(wrong: int, device: str) -> None:
    edges = case(6, 40, 9, device)
    src, dst = (ends % 4 for ends in edges.ends)  # nodes 4 and 5 have an edge to each other only
    src[7], dst[7], src[20], dst[20] = wrong, 4, 5, wrong
    incidence = incidence_without_check(src, dst, 6)
    if device != "cpu":
        assert all(map(torch.equal, incidence, Incidence.of(src, dst, 6)))
    found = both(gated_messages, edges.features, incidence, grads=edges.grads)
    rest = torch.tensor([e for e in range(40) if e not in (7, 20)], device=device)
    edge, *of_nodes = edges.features
    wanted = both(
        reference.gated_messages,
        [edge[rest].detach().requires_grad_(), *of_nodes],
        src[rest],
        dst[rest],
        grads=(edges.grads[0][rest], edges.grads[1]),
    )
    logits, mean, grad_edge, grad_src, grad_dst, grad_values = found
    for of_edges, compact in ((logits, wanted[0]), (grad_edge, wanted[2])):
        assert of_edges[[7, 20]].isnan().all()
        torch.testing.assert_close(of_edges[rest], compact)
    touched = {4: (mean, grad_dst), 5: (grad_src, grad_values)}
    for node, results in touched.items():
        assert all(result[node].isnan().all() for result in results)
    for result, compact in zip(
        (mean, grad_src, grad_dst, grad_values), (wanted[1], *wanted[3:]), strict=True
    ):
        torch.testing.assert_close(result[:4], compact[:4])


@pytest.mark.parametrize("device", DEVICES)
def test_lists_with_a_capacity_give_what_others_give(device: str) -> None:
    crystals = CELLS["ragged batch"].to(device, torch.float64)
    bonds = neighbor_list(*crystals, cutoff=3.5)
    pairs = line_graph(bonds)
    roomy = neighbor_list(*crystals, cutoff=3.5, capacity=len(bonds.src) + 7)
    roomy_pairs = line_graph(roomy, capacity=len(pairs.src) + 9)
    of_bonds, of_pairs = (
        torch.randn(len(x.src), 4, device=device).double() for x in (bonds, pairs)
    )
    extra_bonds, extra_pairs = of_bonds.new_ones(7, 4), of_pairs.new_ones(9, 4)

    def sums(edge: Tensor, x: Tensor, pairs: LineGraph) -> tuple[Tensor, Tensor]:
        return gated_messages(edge, x, x, x, Incidence.of(pairs.src, pairs.dst, len(x)), eps=EPS)

    wanted = sums(of_pairs, of_bonds, pairs)
    padded = torch.cat([of_bonds, extra_bonds])
    logits, mean = sums(torch.cat([of_pairs, extra_pairs]), padded, roomy_pairs)
    assert torch.equal(logits, torch.cat([wanted[0], torch.zeros_like(extra_pairs)]))
    assert torch.equal(mean, torch.cat([wanted[1], torch.zeros_like(extra_bonds)]))


@pytest.mark.cuda
def test_lists_with_a_capacity_wait_for_nothing() -> None:
    coords, lattice, ptr = CELLS["ragged batch"].to("cuda", torch.float64)
    coords, lattice = coords.clone().requires_grad_(), lattice.clone().requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        bonds = neighbor_list(coords, lattice, ptr, cutoff=3.5, capacity=2000)
        pairs = line_graph(bonds, cutoff=2.9, capacity=9000)
        vectors = edge_vectors(coords, lattice, bonds)
        incidence = Incidence.of(pairs.src, pairs.dst, len(vectors))
        edge = vectors.new_ones(len(pairs.src), 3)
        _, mean = gated_messages(edge, vectors, vectors, vectors, incidence, eps=EPS)
        return torch.autograd.grad(mean.sum(), (coords, lattice))

    gradients()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = gradients()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(gradient).all() for gradient in found)


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
    padded = Incidence.of(torch.tensor([4, 2, 0, 4]), torch.tensor([4, 0, 3, 4]), 4)
    assert padded.by_src.tolist() == [2, 1, 0, 3]
    assert padded.first_out.tolist() == [0, 1, 1, 2, 2]


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
    with pytest.raises(ValueError, match=r"must be nodes 0 ... 2, or both be 3 where there is no"):
        Incidence.of(torch.tensor([0, 3]), torch.tensor([0, 0]), 3)
    with pytest.raises(ValueError, match="row 1 belongs to group 4, but there are 3 groups"):
        Incidence.of(torch.tensor([0, 4]), torch.tensor([0, 4]), 3)
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
