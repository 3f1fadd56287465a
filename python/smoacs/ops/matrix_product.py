"""Matrix products whose rows do not depend on each other, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smoacs.ops._native import addresses, check_tensor, dtype_name, kernels
from smoacs.ops._operator import operator

_FLOATS = (torch.float32, torch.float64)


def matrix_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b + bias`` of two matrices, or of each pair in a batch.

    On the CPU an element of the result is the same, to the last bit, whatever the number of rows,
    columns, matrices and threads, and wherever the operands lie in memory. On a GPU these are
    torch's own products, which promise no such thing.

    Parameters
    ----------
    a : Tensor (N, K) or (B, N, K), float32 or float64
    b : Tensor (K, M) or (B, K, M), same dtype
        Any strides: transposed matrices and parts of larger ones are not copied.
    bias : Tensor (M,), same dtype, optional

    Returns
    -------
    Tensor (N, M) or (B, N, M)

    Raises
    ------
    TypeError
        If a dtype is wrong.
    ValueError
        If a shape or a device does not fit.
    """
    batch = (None,) if a.dim() == 3 else ()
    check_tensor("a", a, (*batch, None, None), _FLOATS, a.device)
    check_tensor("b", b, (*a.shape[:-2], a.shape[-1], None), a.dtype, a.device)
    if bias is not None:
        check_tensor("bias", bias, (b.shape[-1],), a.dtype, a.device)
    if a.is_cpu:
        return _matrix_product(a, b, bias)
    if bias is None:
        return a @ b
    return torch.addmm(bias, a, b) if a.dim() == 2 else a @ b + bias


def _like(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    a, b, _ = inputs
    of_a, of_b = ctx.needs_input_grad[:2]
    ctx.save_for_backward(a if of_b else None, b if of_a else None)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, b = ctx.saved_tensors
    of_a, of_b, of_bias = ctx.needs_input_grad
    return (
        _matrix_product(grad, b.mT, None) if of_a else None,
        _matrix_product(a.mT, grad, None) if of_b else None,
        grad.flatten(0, -2).sum(0) if of_bias else None,
    )


@operator("matrix_product", fake=_like, backward=_differentiate, setup_context=_save)
def _matrix_product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    out = _like(a, b)
    kernels().matrix_product(
        **addresses(a=a, b=b, bias=None if bias is None else bias.contiguous(), out=out),
        a_sizes=_triple(a.shape, 1),
        a_strides=_triple(a.stride(), 0),
        b_sizes=_triple(b.shape, 1),
        b_strides=_triple(b.stride(), 0),
        dtype=dtype_name(a),
    )
    return out


def _triple(sizes: tuple[int, ...], of_one: int) -> tuple[int, ...]:
    """Sizes or strides of a batch, also of a single matrix."""
    return tuple(sizes) if len(sizes) == 3 else (of_one, *sizes)
