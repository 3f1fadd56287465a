"""Activations whose elements do not depend on their place: one pass forward, one backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from smoacs.ops._native import addresses, check_tensor, dtype_name, kernels
from smoacs.ops._operator import operator


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function of every element.

    On the CPU an element's bits depend on nothing else, unlike those of :func:`torch.sigmoid`. On
    a GPU this is torch's. Only ``x`` is kept for the gradient; there is no second derivative.

    Parameters
    ----------
    x : Tensor, float32 or float64

    Returns
    -------
    Tensor, of the same shape

    Raises
    ------
    TypeError
        If the dtype is wrong.
    """
    return _activate(x, "sigmoid")


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)`` of every element; otherwise as :func:`sigmoid`."""
    return _activate(x, "silu")


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, beyond 20 the element itself; otherwise as :func:`sigmoid`."""
    return _activate(x, "softplus")


_TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,
}


def _activate(x: Tensor, kind: str) -> Tensor:
    check_tensor("x", x, (None,) * x.dim(), (torch.float32, torch.float64), x.device)
    return _activation(x.contiguous(), kind) if x.is_cpu else _TORCH[kind](x)


def _arguments(x: Tensor, kind: str) -> tuple[Any, dict[str, Any]]:
    return getattr(kernels().Activation, kind), {"n": x.numel(), "dtype": dtype_name(x)}


@operator("activation_backward", fake=lambda grad, x, kind: torch.empty_like(x))
def _activation_backward(grad: Tensor, x: Tensor, kind: str) -> Tensor:
    function, options = _arguments(x, kind)
    grad_x = torch.empty_like(x)
    kernels().activate_backward(function, **options, **addresses(x=x, grad=grad, grad_x=grad_x))
    return grad_x


def _save(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    x, ctx.kind = inputs
    ctx.save_for_backward(x)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    return _activation_backward(grad.contiguous(), x, ctx.kind), None


@operator(
    "activation",
    fake=lambda x, kind: torch.empty_like(x),
    backward=_differentiate,
    setup_context=_save,
)
def _activation(x: Tensor, kind: str) -> Tensor:
    function, options = _arguments(x, kind)
    out = torch.empty_like(x)
    kernels().activate(function, **options, **addresses(x=x, out=out))
    return out
