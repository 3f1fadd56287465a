"""Activations equal torch's, and none of their elements depends on its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from smoacs.ops import sigmoid, silu, softplus

DTYPES = (torch.float32, torch.float64)
FUNCTIONS = {sigmoid: torch.sigmoid, silu: functional.silu, softplus: functional.softplus}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_activations_equal_torch(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-60, 60, 601, dtype=torch.float64, requires_grad=True)
    expected = FUNCTIONS[function](x)
    torch.testing.assert_close(function(x), expected, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(
        *(torch.autograd.grad(y.sum(), x)[0] for y in (function(x), expected)),
        rtol=1e-13,
        atol=1e-15,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_elements_of_activations_do_not_depend_on_their_place(
    function: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(70003, dtype=dtype, generator=generator)

    def both(part: Tensor) -> tuple[Tensor, Tensor]:
        part = part.clone().requires_grad_()
        out = function(part)
        return out.detach(), torch.autograd.grad(out.square().sum(), part)[0]

    all_out, all_grad = both(x)
    for start, length in ((0, 1), (5, 1), (17, 7), (100, 33), (3, 1023), (40000, 20001)):
        out, grad = both(x[start : start + length])
        assert torch.equal(out, all_out[start : start + length])
        assert torch.equal(grad, all_grad[start : start + length])


def test_activations_are_finite_at_extremes() -> None:
    x = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
    for function, expected in FUNCTIONS.items():
        torch.testing.assert_close(function(x), expected(x))
        assert torch.isfinite(torch.autograd.grad(function(x).sum(), x)[0]).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_operator_is_declared_well(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(3, 4).t().requires_grad_()
    assert torch.autograd.gradcheck(function, x)
    assert function(x).shape == x.shape
    torch.library.opcheck(torch.ops.smoacs.activation.default, (x.contiguous(), function.__name__))
    assert function(x[:0]).shape == (0, 3)
    with pytest.raises(TypeError, match="x must be float32 or float64, got int64"):
        function(torch.arange(3))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_not_a_number_stays_one(function: Callable[[Tensor], Tensor]) -> None:
    for dtype in DTYPES:
        x = torch.tensor([0.0, torch.nan, 1.0], dtype=dtype)
        assert function(x).isnan().tolist() == [False, True, False]
