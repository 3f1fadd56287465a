"""The convolution in one operation equals its steps, whatever graph it is, wherever it is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plain_alignn import plain_convolution
from smoacs.ops import Affine, ConvolutionWeights, Incidence, convolution

EPS = 1e-6
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def weights(
    width: int, norm_eps: float | None = 1e-5, dtype: torch.dtype = torch.float64
) -> ConvolutionWeights:
    maps = [
        Affine(
            normal(width, width, seed=i, dtype=dtype) / width**0.5,
            normal(width, seed=10 + i, dtype=dtype),
        )
        for i in range(5)
    ]
    norms = [
        Affine(*(normal(width, seed=20 + i + 3 * j, dtype=dtype) for j in range(2)))
        for i in range(2)
    ]
    return ConvolutionWeights(*maps, *norms, norm_eps=norm_eps, eps=EPS)


def crystals(sizes: list[int], edges_per_node: int) -> tuple[Tensor, Tensor, int]:
    """Ends of edges that join nodes of one crystal; crystals of no node have none."""
    generator = torch.Generator().manual_seed(sum(sizes) + edges_per_node)
    src, dst, first = [], [], 0
    for size in sizes:
        ends = torch.randint(0, size, (2, edges_per_node * size), generator=generator)
        src.append(first + ends[0].sort()[0])
        dst.append(first + ends[1])
        first += size
    return torch.cat(src), torch.cat(dst), first


def results(
    x: Tensor, y: Tensor, src: Tensor, dst: Tensor, w: ConvolutionWeights, grads: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    out = convolution(x, y, Incidence.of(src, dst, len(x)), w)
    return *(o.detach() for o in out), *torch.autograd.grad(out, (x, y), grads)


def wanted(
    x: Tensor, y: Tensor, src: Tensor, dst: Tensor, w: ConvolutionWeights, grads: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    out = plain_convolution(x, y, Incidence.of(src, dst, len(x)), w)
    return *(o.detach() for o in out), *torch.autograd.grad(out, (x, y), grads)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("norm_eps", [1e-5, None])
@pytest.mark.parametrize(
    ("sizes", "degree", "width"),
    [([5] * 40, 6, 128), ([1, 300, 2], 4, 33), ([3, 0, 0, 4], 2, 300), ([4], 0, 8), ([], 0, 4)],
)
def test_equals_its_parts(
    sizes: list[int], degree: int, width: int, norm_eps: float | None, dtype: torch.dtype
) -> None:
    sizes = [size for size in sizes if size] or [0]
    src, dst, n = crystals(sizes, degree) if sizes != [0] else (*torch.zeros(2, 0).long(), 0)
    x, y = normal(n, width, seed=1, dtype=dtype), normal(len(src), width, seed=2, dtype=dtype)
    grads = normal(n, width, seed=3, dtype=dtype), normal(len(src), width, seed=4, dtype=dtype)
    w = weights(width, norm_eps, dtype)
    for mine, theirs in zip(
        results(x, y, src, dst, w, grads), wanted(x, y, src, dst, w, grads), strict=True
    ):
        scale = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE[dtype] * max(scale, 1.0))


@settings(max_examples=40, deadline=None)
@given(
    n_nodes=st.integers(1, 9),
    n_edges=st.integers(0, 30),
    width=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_equals_its_parts_on_any_graph(n_nodes: int, n_edges: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, n_nodes, (2, n_edges), generator=generator)
    x, y = normal(n_nodes, width, seed=1), normal(n_edges, width, seed=2)
    grads = normal(n_nodes, width, seed=3), normal(n_edges, width, seed=4)
    w = weights(width, None)
    for mine, theirs in zip(
        results(x, y, src, dst, w, grads), wanted(x, y, src, dst, w, grads), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [64, 130])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_crystal_does_not_depend_on_the_rest(threads: int, width: int) -> None:
    """Small crystals share parts, a large one is a part of its own, shared by all threads."""
    sizes = [5, 5, 3, 400, 1] + [5] * 120
    src, dst, n = crystals(sizes, 7)
    x, y = normal(n, width, seed=1, dtype=torch.float32), normal(7 * n, width, seed=2).float()
    grads = normal(n, width, seed=3).float(), normal(7 * n, width, seed=4).float()
    w = weights(width, dtype=torch.float32)
    whole = results(x, y, src, dst, w, grads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for found, expected in zip(results(x, y, src, dst, w, grads), whole, strict=True):
            assert torch.equal(found, expected)
        first = 0
        for size in sizes[:6]:
            nodes, edges = slice(first, first + size), slice(7 * first, 7 * (first + size))
            ends = src[edges] - first, dst[edges] - first
            alone = results(x[nodes], y[edges], *ends, w, (grads[0][nodes], grads[1][edges]))
            for found, expected, rows in zip(
                alone, whole, (nodes, edges, nodes, edges), strict=True
            ):
                assert torch.equal(found, expected[rows])
            first += size
    finally:
        torch.set_num_threads(before)


def test_gradients_are_those_of_finite_differences() -> None:
    src, dst, n = crystals([3, 2], 2)
    incidence, w = Incidence.of(src, dst, n), weights(4)
    inputs = [normal(n, 4, seed=1).requires_grad_(), normal(2 * n, 4, seed=2).requires_grad_()]
    assert torch.autograd.gradcheck(lambda x, y: convolution(x, y, incidence, w), inputs)
    assert torch.autograd.gradcheck(lambda x, y: convolution(x, y, incidence, w)[0], inputs)
    assert torch.autograd.gradcheck(lambda x, y: convolution(x, y, incidence, w)[1], inputs)
    nodes_only = lambda x, y: convolution(x, y, incidence, w, update_edges=False)[0]  # noqa: E731
    assert torch.autograd.gradcheck(nodes_only, inputs)
    assert convolution(*inputs, incidence, w, update_edges=False)[1] is None


def test_the_operators_are_declared_well() -> None:
    src, dst, n = crystals([3, 2], 2)
    inputs = normal(n, 4, seed=1).requires_grad_(), normal(2 * n, 4, seed=2).requires_grad_()
    w = weights(4)
    tensors = [tensor for affine in w[:7] for tensor in affine]
    for update_edges in (True, False):
        torch.library.opcheck(
            torch.ops.smoacs.convolution.default,
            (*inputs, list(Incidence.of(src, dst, n)), tensors, 1e-5, EPS, update_edges),
        )


def test_wrong_input() -> None:
    src, dst, n = crystals([3, 2], 2)
    incidence, w = Incidence.of(src, dst, n), weights(4)
    x, y = normal(n, 4, seed=1), normal(2 * n, 4, seed=2)
    with pytest.raises(ValueError, match=r"x must have shape \(5, any\), got \(10, 4\)"):
        convolution(y, y, incidence, w)
    with pytest.raises(ValueError, match=r"y must have shape \(10, 4\), got \(5, 4\)"):
        convolution(x, x, incidence, w)
    with pytest.raises(ValueError, match=r"weight of edge_gate must have shape \(4, 4\), got \(5"):
        convolution(x, y, incidence, weights(5))
    with pytest.raises(TypeError, match="weight of edge_gate must be float64, got float32"):
        convolution(x, y, incidence, weights(4, dtype=torch.float32))
    trained = w._replace(values=Affine(w.values.weight.requires_grad_(), w.values.bias))
    with pytest.raises(ValueError, match="weights must not require a gradient"):
        convolution(x, y, incidence, trained)
    padded = Incidence.of(
        torch.cat([src.new_tensor([n]), src]), torch.cat([dst.new_tensor([n]), dst]), n
    )
    with pytest.raises(ValueError, match="rows that are no edges must come last"):
        convolution(x, torch.cat([y, y[:1]]), padded, weights(4))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(("sizes", "edges_per_node"), [([3, 2], 2), ([4] * 90, 12), ([2], 0)])
def test_rows_that_are_no_edges_take_no_part(
    sizes: list[int], edges_per_node: int, last: bool
) -> None:
    src, dst, n = crystals(sizes, edges_per_node)
    w, width = weights(24), 24
    x, y = normal(n, width, seed=1), normal(len(src) + 40, width, seed=2)
    grads = normal(n, width, seed=3), normal(len(y), width, seed=4)
    no_edges = src.new_full((40,), n)

    def run(rows: int) -> list[Tensor]:
        incidence = Incidence.of(*(torch.cat([e, no_edges])[:rows] for e in (src, dst)), n)
        leaves = [x.clone().requires_grad_(), y[:rows].clone().requires_grad_()]
        out = convolution(*leaves, incidence, w, update_edges=not last)
        out = [o for o in out if o is not None]
        weights_of = [g[: len(o)] for g, o in zip(grads, out, strict=False)]
        return [*(o.detach() for o in out), *torch.autograd.grad(out, leaves, weights_of)]

    for found, wanted in zip(run(len(y)), run(len(src)), strict=True):
        assert torch.equal(found[: len(wanted)], wanted)
        assert torch.isfinite(found).all()
