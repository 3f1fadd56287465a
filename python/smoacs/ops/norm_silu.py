"""SiLU of normalised rows, added to a residual: one pass forward, one backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smoacs.ops._native import check_tensor, kernels, launch
from smoacs.ops._operator import operator


def norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    *,
    eps: float | None,
) -> Tensor:
    """``residual + silu(weight * z + bias)`` with z the rows of ``x``, standardised if asked for.

    With ``eps`` it is the activation of a LayerNorm (Ba, Kiros, Hinton, arXiv:1607.06450),
    without that of any fixed scale and shift, such as a BatchNorm outside of training. Only the
    arguments are kept for the gradients. There is no second derivative.

    Parameters
    ----------
    x : Tensor (N, F), float32 or float64
    weight, bias : Tensor (F,), same dtype
    residual : Tensor (N, F), same dtype, optional
    eps : float or None
        ``z = (x - mean) / sqrt(variance + eps)`` over each row, variance without Bessel's
        correction; None: ``z = x``.

    Returns
    -------
    Tensor (N, F)

    Raises
    ------
    ValueError
        If a shape or a device does not fit.
    TypeError
        If a dtype does not.
    """
    check_tensor("x", x, (None, None), (torch.float32, torch.float64), x.device)
    check_tensor("weight", weight, (x.shape[1],), x.dtype, x.device)
    check_tensor("bias", bias, (x.shape[1],), x.dtype, x.device)
    if residual is not None:
        check_tensor("residual", residual, tuple(x.shape), x.dtype, x.device)
        residual = residual.contiguous()
    return _norm_silu(x.contiguous(), weight.contiguous(), bias.contiguous(), residual, eps)


def _options(x: Tensor, eps: float | None) -> dict[str, Any]:
    return {
        "n_rows": x.shape[0],
        "n_columns": x.shape[1],
        "standardize": eps is not None,
        "eps": eps or 0.0,
    }


@operator(
    "norm_silu_backward",
    fake=lambda grad, x, weight, bias, eps, of_weights: (
        torch.empty_like(x),
        x.new_empty(2 * of_weights, x.shape[1]),
    ),
)
def _norm_silu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float | None, of_weights: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to x and, where asked for, to weight and bias (2, F), else (0, F)."""
    grad_x = torch.empty_like(x)
    chunk_sums = None
    if of_weights:
        n_chunks = -(-x.shape[0] // kernels().ROWS_PER_CHUNK)
        chunk_sums = x.new_empty(n_chunks, 2, x.shape[1])
    launch(
        "norm_silu_backward",
        x,
        **_options(x, eps),
        x=x,
        weight=weight,
        bias=bias,
        grad=grad,
        grad_x=grad_x,
        chunk_sums=chunk_sums,
    )
    return grad_x, x.new_empty(0, x.shape[1]) if chunk_sums is None else chunk_sums.sum(0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, _, ctx.eps = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    _, of_weight, of_bias, of_residual, _ = ctx.needs_input_grad
    grad_x, sums = _norm_silu_backward(
        grad.contiguous(), x, weight, bias, ctx.eps, of_weight or of_bias
    )
    return (
        grad_x,
        sums[0] if of_weight else None,
        sums[1] if of_bias else None,
        grad if of_residual else None,
        None,
    )


@operator(
    "norm_silu",
    fake=lambda x, *_: torch.empty_like(x),
    backward=_backward,
    setup_context=_save,
)
def _norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, eps: float | None
) -> Tensor:
    out = torch.empty_like(x)
    launch(
        "norm_silu",
        x,
        **_options(x, eps),
        x=x,
        residual=residual,
        weight=weight,
        bias=bias,
        out=out,
    )
    return out
