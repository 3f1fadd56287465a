"""Interpolated rows equal plain torch and the function that the table holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smoacs.ops import interpolate, reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
LOW, STEP = -1.1, 0.05
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 2e-4},
    torch.float64: {"rtol": 1e-11, "atol": 1e-10},
}


def case(
    n: int, columns: int, device: str = "cpu", dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Table, values (some beyond its ends) and the gradient of the result."""
    generator = torch.Generator().manual_seed(n + 1000 * columns)
    table, values, grad = (
        torch.randn(45, columns, generator=generator, dtype=torch.float64),
        torch.rand(n, generator=generator, dtype=torch.float64) * 2.3 - 1.15,
        torch.randn(n, columns, generator=generator, dtype=torch.float64),
    )
    return (
        table.to(device, dtype).requires_grad_(),
        values.to(device, dtype).requires_grad_(),
        grad.to(device, dtype),
    )


def both(op, table: Tensor, values: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    out = op(table, values, low=LOW, step=STEP)
    return out.detach(), *torch.autograd.grad(out, (table, values), grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n", "columns"), [(0, 3), (1, 1), (50, 33), (900, 64), (7, 130)])
def test_equals_reference(n: int, columns: int, dtype: torch.dtype, device: str) -> None:
    inputs = case(n, columns, device, dtype)
    torch.testing.assert_close(
        both(interpolate, *inputs), both(reference.interpolate, *inputs), **TOLERANCE[dtype]
    )


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_of_finite_differences(device: str) -> None:
    table, values, _ = case(6, 4, device)
    # A step of finite differences must not cross from one polynomial to the next.
    values = (((values - LOW) / STEP).detach().floor() + 0.4) * STEP + LOW
    assert torch.autograd.gradcheck(
        lambda t, v: interpolate(t, v, low=LOW, step=STEP), (table, values.requires_grad_())
    )


def test_polynomials_of_fifth_degree_are_exact() -> None:
    knots = LOW + STEP * torch.arange(45, dtype=torch.float64)
    powers = torch.arange(6, dtype=torch.float64)
    values = torch.linspace(-1, 1, 77, dtype=torch.float64, requires_grad=True)
    found = interpolate(knots[:, None] ** powers, values, low=LOW, step=STEP)
    torch.testing.assert_close(found, values[:, None] ** powers, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(found[:, 5].sum(), values)
    torch.testing.assert_close(slope, 5 * values**4, rtol=1e-11, atol=1e-11)


def test_the_error_falls_with_the_sixth_power() -> None:
    values = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    errors = []
    for step in (0.1, 0.05):
        knots = -1.2 + step * torch.arange(round(2.4 / step) + 1, dtype=torch.float64)
        found = interpolate(torch.exp(2 * knots)[:, None], values, low=-1.2, step=step)
        errors.append((found[:, 0] - torch.exp(2 * values)).abs().max().item())
    assert errors[1] < errors[0] / 50
    assert errors[0] < 1e-5


def test_numbers_that_are_not_finite_spoil_no_other() -> None:
    table, _, _ = case(1, 5)
    values = torch.tensor([0.0, torch.nan, torch.inf, 1.0], dtype=torch.float64)
    values.requires_grad_()
    out = interpolate(table.detach(), values, low=LOW, step=STEP)
    grad = torch.autograd.grad(out.sum(), values)[0]
    assert out.isnan().any(1).tolist() == [False, True, True, False]
    assert grad.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_neither_other_values_nor_threads_matter(dtype: torch.dtype) -> None:
    table, values, grad = case(2000, 40, dtype=dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = both(interpolate, table, values, grad)
        torch.set_num_threads(3)
        assert all(map(torch.equal, both(interpolate, table, values, grad), whole))
        for start, stop in ((0, 1), (4, 9), (1000, 2000)):
            part = values.detach()[start:stop].requires_grad_()
            found = both(interpolate, table, part, grad[start:stop])
            assert torch.equal(found[0], whole[0][start:stop])
            assert torch.equal(found[2], whole[2][start:stop])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.cuda
def test_cuda_repeats_itself_and_equals_the_cpu() -> None:
    on_gpu = case(3000, 64, "cuda", torch.float32)
    first, again = both(interpolate, *on_gpu), both(interpolate, *on_gpu)
    assert all(map(torch.equal, first, again))
    for found, wanted in zip(
        first, both(interpolate, *case(3000, 64, "cpu", torch.float32)), strict=True
    ):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-3)


def test_operators_are_sound() -> None:
    table, values, grad = case(9, 4)
    torch.library.opcheck(torch.ops.smoacs.interpolate, (table, values, LOW, STEP))
    arguments = (grad, table.detach(), values.detach(), LOW, STEP)
    torch.library.opcheck(torch.ops.smoacs.interpolate_backward, arguments)
    torch.library.opcheck(torch.ops.smoacs.interpolation_table_backward, arguments)


def test_bad_input() -> None:
    table, values, _ = case(3, 2)
    with pytest.raises(ValueError, match="at least 6 rows, got 5"):
        interpolate(table[:5], values, low=LOW, step=STEP)
    with pytest.raises(ValueError, match="step must be positive, got 0"):
        interpolate(table, values, low=LOW, step=0.0)
    with pytest.raises(TypeError, match="values must be float64"):
        interpolate(table, values.float(), low=LOW, step=STEP)
