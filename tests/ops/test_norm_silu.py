"""The fused normalisation and SiLU equal plain torch, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from smoacs.ops import norm_silu, reference
from smoacs.ops._native import kernels

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 3e-5},
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
}


def case(
    rows: int, columns: int, device: str = "cpu", dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Tensor]:
    """x, weight, bias, residual; and the gradient of the result."""
    generator = torch.Generator().manual_seed(rows + 1000 * columns)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    inputs = [
        3 * normal(rows, columns) + 1,
        normal(columns),
        normal(columns),
        normal(rows, columns),
    ]
    return [x.requires_grad_() for x in inputs], normal(rows, columns)


def both(op, inputs: list[Tensor], grad: Tensor, eps: float | None) -> tuple[Tensor, ...]:
    out = op(*inputs, eps=eps)
    return out.detach(), *torch.autograd.grad(out, inputs, grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("eps", [1e-5, None])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 4), (1, 1), (3, 31), (2, 32), (700, 64), (513, 7), (9, 333)]
)
def test_equals_reference(
    rows: int, columns: int, residual: bool, eps: float | None, dtype: torch.dtype, device: str
) -> None:
    inputs, grad = case(rows, columns, device, dtype)
    inputs = inputs if residual else inputs[:3]
    found, wanted = both(norm_silu, inputs, grad, eps), both(reference.norm_silu, inputs, grad, eps)
    for mine, theirs in zip(found, wanted, strict=True):
        # Sums over many rows, in another order.
        scale = {key: value * max(1, rows) ** 0.5 for key, value in TOLERANCE[dtype].items()}
        torch.testing.assert_close(mine, theirs, **scale)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 20), columns=st.integers(1, 100))
def test_equals_torch_on_any_shape(rows: int, columns: int) -> None:
    inputs, grad = case(rows, columns)

    def plain(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *, eps: float) -> Tensor:
        normed = functional.layer_norm(x, (columns,), weight, bias, eps)
        return residual + functional.silu(normed)

    torch.testing.assert_close(
        both(norm_silu, inputs, grad, 1e-5),
        both(plain, inputs, grad, 1e-5),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("eps", [1e-5, None])
def test_gradients_are_those_of_finite_differences(eps: float | None, device: str) -> None:
    inputs, _ = case(5, 6, device)
    assert torch.autograd.gradcheck(lambda *x: norm_silu(*x, eps=eps), inputs)
    assert torch.autograd.gradcheck(lambda *x: norm_silu(*x, eps=eps), inputs[:3])


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2)])
def test_only_wanted_gradients_are_computed(wanted: tuple[int, ...]) -> None:
    inputs, grad = case(5, 6)
    every = both(norm_silu, inputs, grad, 1e-5)[1:]
    some = [x.detach().requires_grad_(n in wanted) for n, x in enumerate(inputs)]
    out = norm_silu(*some, eps=1e-5)
    found = torch.autograd.grad(out, [some[n] for n in wanted], grad)
    for mine, n in zip(found, wanted, strict=True):
        assert torch.equal(mine, every[n])


def test_frozen_weights_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    native = kernels().norm_silu_backward
    monkeypatch.setattr(
        kernels(),
        "norm_silu_backward",
        lambda **arguments: (calls.append(arguments["chunk_sums"]), native(**arguments)),
    )
    (x, weight, bias, residual), grad = case(5, 6)
    out = norm_silu(x, weight.detach(), bias.detach(), residual, eps=1e-5)
    torch.autograd.grad(out, [x, residual], grad)
    assert calls == [None]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("eps", [1e-5, None])
def test_neither_other_rows_nor_threads_matter(dtype: torch.dtype, eps: float | None) -> None:
    (x, weight, bias, residual), grad = case(1500, 40, dtype=dtype)
    threads = torch.get_num_threads()

    def rows(part: slice) -> tuple[Tensor, Tensor]:
        some = x.detach()[part].requires_grad_()
        out = norm_silu(some, weight.detach(), bias.detach(), residual.detach()[part], eps=eps)
        return out.detach(), torch.autograd.grad(out, some, grad[part])[0]

    try:
        torch.set_num_threads(1)
        of_weights = both(norm_silu, [x, weight, bias, residual], grad, eps)
        torch.set_num_threads(3)
        for mine, theirs in zip(
            both(norm_silu, [x, weight, bias, residual], grad, eps), of_weights, strict=True
        ):
            assert torch.equal(mine, theirs)
        whole = rows(slice(None))
        for start, stop in ((0, 1), (3, 5), (255, 258), (700, 1500)):
            for mine, theirs in zip(rows(slice(start, stop)), whole, strict=True):
                assert torch.equal(mine, theirs[start:stop])
    finally:
        torch.set_num_threads(threads)


def test_a_bad_row_spoils_no_other() -> None:
    (x, weight, bias, residual), _ = case(9, 6, dtype=torch.float32)
    x = x.detach().clone()
    x[4, 2] = torch.nan
    x.requires_grad_()
    out = norm_silu(x, weight.detach(), bias.detach(), residual.detach(), eps=1e-5)
    grad = torch.autograd.grad(out.sum(), x)[0]
    for result in (out, grad):
        assert result.isnan().any(1).nonzero().flatten().tolist() == [4]


@pytest.mark.cuda
@pytest.mark.parametrize("eps", [1e-5, None])
def test_cuda_repeats_itself_and_equals_the_cpu(eps: float | None) -> None:
    on_gpu = case(1000, 64, "cuda", torch.float32)
    first, again = both(norm_silu, *on_gpu, eps), both(norm_silu, *on_gpu, eps)
    assert all(map(torch.equal, first, again))
    on_cpu = both(norm_silu, *case(1000, 64, "cpu", torch.float32), eps)
    for found, wanted in zip(first, on_cpu, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-4)


def test_operators_are_sound() -> None:
    (x, weight, bias, residual), grad = case(5, 6)
    for eps in (1e-5, None):
        torch.library.opcheck(torch.ops.smoacs.norm_silu, (x, weight, bias, residual, eps))
        torch.library.opcheck(torch.ops.smoacs.norm_silu, (x, weight, bias, None, eps))
        for of_weights in (True, False):
            arguments = (grad, x.detach(), weight.detach(), bias.detach(), eps, of_weights)
            torch.library.opcheck(torch.ops.smoacs.norm_silu_backward, arguments)


def test_bad_input() -> None:
    (x, weight, bias, residual), _ = case(3, 4)
    with pytest.raises(ValueError, match=r"weight must have shape \(4\)"):
        norm_silu(x, weight[:3], bias, eps=None)
    with pytest.raises(ValueError, match=r"residual must have shape \(3, 4\)"):
        norm_silu(x, weight, bias, residual[:1], eps=None)
    with pytest.raises(TypeError, match="bias must be float64"):
        norm_silu(x, weight, bias.float(), eps=None)
    with pytest.raises(TypeError, match="x must be float32 or float64"):
        norm_silu(x.half(), weight, bias, eps=None)
