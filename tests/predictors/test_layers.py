"""Rows of the building blocks equal torch's own functions and do not depend on each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from smoacs.predictors.layers import crystal_index, elu, gaussians, linear, sum_at

DTYPES = (torch.float32, torch.float64)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 300),
    n_in=st.integers(1, 30),
    n_out=st.integers(1, 30),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_linear_equals_torch(
    rows: int, n_in: int, n_out: int, bias: bool, dtype: torch.dtype
) -> None:
    x, weight = random(rows, n_in, dtype=dtype), random(n_out, n_in, dtype=dtype, seed=1)
    leaves = [x, weight, random(n_out, dtype=dtype, seed=2)][: 3 if bias else 2]
    for leaf in leaves:
        leaf.requires_grad_()
    out, expected = linear(*leaves), functional.linear(*leaves)
    accuracy = 2e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(out, expected, rtol=accuracy, atol=accuracy)
    seed = random(rows, n_out, dtype=dtype, seed=3)
    for mine, theirs in zip(
        torch.autograd.grad(out, leaves, seed),
        torch.autograd.grad(expected, leaves, seed),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=accuracy, atol=accuracy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("n_in", "n_out"), [(92, 64), (64, 1), (40, 16), (3, 5), (24, 72), (31, 64), (64, 31)]
)
def test_rows_of_linear_do_not_depend_on_their_number(
    dtype: torch.dtype, threads: int, n_in: int, n_out: int
) -> None:
    x, weight = random(5000, n_in, dtype=dtype), random(n_out, n_in, dtype=dtype, seed=1)
    seed = random(5000, n_out, dtype=dtype, seed=2)

    def both(rows: slice) -> tuple[Tensor, Tensor]:
        part = x[rows].clone().requires_grad_()
        out = linear(part, weight)
        return out.detach(), torch.autograd.grad(out, part, seed[rows])[0]

    all_out, all_grad = both(slice(None))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for start, stop in ((0, 1), (5, 8), (17, 81), (96, 191), (333, 1000), (4999, 5000)):
            out, grad = both(slice(start, stop))
            assert torch.equal(out, all_out[start:stop])
            assert torch.equal(grad, all_grad[start:stop])
    finally:
        torch.set_num_threads(before)


def test_elu_equals_torch_and_does_not_depend_on_its_place() -> None:
    x = torch.cat([3 * random(5003), torch.tensor([-1e4, 0.0, 1e4])]).requires_grad_()
    torch.testing.assert_close(elu(x), functional.elu(x), rtol=1e-14, atol=1e-15)
    assert torch.equal(elu(x[7:1000]), elu(x)[7:1000])
    gradients = [torch.autograd.grad(f(x).sum(), x)[0] for f in (elu, functional.elu)]
    torch.testing.assert_close(*gradients)


def test_gaussians() -> None:
    values, centers = random(9).requires_grad_(), torch.linspace(0, 3, 5, dtype=torch.float64)
    expected = torch.exp(-2.5 * (values[:, None] - centers) ** 2)
    torch.testing.assert_close(gaussians(values, centers, 2.5), expected)
    assert torch.autograd.gradcheck(lambda v: gaussians(v, centers, 2.5), values)


def test_sums_and_owners() -> None:
    values, index = random(6, 2), torch.tensor([3, 0, 0, 3, 3, 1])
    expected = torch.stack([values[index == number].sum(0) for number in range(5)])
    torch.testing.assert_close(sum_at(values, index, 5), expected)
    # As on a GPU.
    total = torch.zeros_like(expected).index_put_((index,), values, accumulate=True)
    torch.testing.assert_close(total, expected)
    assert crystal_index(torch.tensor([0, 2, 2, 5]), 5).tolist() == [0, 0, 2, 2, 2]
