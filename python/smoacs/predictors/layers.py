"""Building blocks of the graph networks whose rows do not depend on the rest of the batch.

A candidate's prediction must not change, not even in the last bit, with the candidates that share
its batch. On the CPU, torch breaks this in two places. A matrix product rounds the last few rows
differently when their number does not fill the block its inner loop works on, and so it does with
very few columns. The fused ``sigmoid``, ``silu`` and ``softplus`` round the elements at the end of
a thread's share differently from the rest; ``exp``, ``log1p`` and plain arithmetic do not. The
functions of this module avoid both, forward and backward. On a GPU they make no such promise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# A multiple of the row blocks (4 to 48) of the matrix products in use.
_ROW_BLOCK = 96
_MIN_COLUMNS = 8


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Affine map ``x @ weight.T + bias`` whose rows are bitwise independent of the others.

    Parameters
    ----------
    x : Tensor (N, in), float
    weight : Tensor (out, in), float
    bias : Tensor (out,), float, optional

    Returns
    -------
    Tensor (N, out)
    """
    if x.device.type != "cpu":
        return functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` on a matrix, with the promise of :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in) to (N, out)."""
        return linear(x, self.weight, self.bias)


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function of every element."""
    return _Sigmoid.apply(x)


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)`` of every element."""
    return _SiLU.apply(x)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))`` of every element."""
    return _Softplus.apply(x)


def sum_at(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum of the rows that share an index, added up in the order of the rows.

    Parameters
    ----------
    values : Tensor (N, F), float
    index : Tensor (N,), int64
        Row of the result that each row is added to.
    size : int
        Number of rows of the result.

    Returns
    -------
    Tensor (size, F)
    """
    return values.new_zeros(size, values.shape[1]).index_add(0, index, values)


def crystal_index(ptr: Tensor, n_sites: int) -> Tensor:
    """Crystal that owns each site, (S,) int64, from the offsets ``ptr`` (C + 1,)."""
    return torch.repeat_interleave(
        torch.arange(ptr.numel() - 1, device=ptr.device), ptr.diff(), output_size=n_sites
    )


def _product(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ matrix + bias`` in whole blocks of rows and at least ``_MIN_COLUMNS`` columns."""
    (rows, _), columns = x.shape, matrix.shape[1]
    if columns < _MIN_COLUMNS:
        more = (0, _MIN_COLUMNS - columns)
        wide_bias = None if bias is None else functional.pad(bias, more)
        return _product(x, functional.pad(matrix, more), wide_bias)[:, :columns].contiguous()
    out = x.new_empty(rows, columns)
    whole = rows - rows % _ROW_BLOCK
    if whole > 0:
        _multiply(x[:whole], matrix, bias, out[:whole])
    if whole < rows:
        block = x.new_zeros(_ROW_BLOCK, x.shape[1])
        block[: rows - whole] = x[whole:]
        block_out = x.new_empty(_ROW_BLOCK, columns)
        _multiply(block, matrix, bias, block_out)
        out[whole:] = block_out[: rows - whole]
    return out


def _multiply(x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, matrix, out=out)
    else:
        torch.addmm(bias, x, matrix, out=out)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _product(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        return (
            _product(grad, weight) if ctx.needs_input_grad[0] else None,
            grad.t() @ x if ctx.needs_input_grad[1] else None,
            grad.sum(0) if ctx.needs_input_grad[2] else None,
        )


def _logistic(x: Tensor) -> Tensor:
    return x.neg().exp_().add_(1).reciprocal_()


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = _logistic(x)
        ctx.save_for_backward(gate)
        return gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate,) = ctx.saved_tensors
        return torch.rsub(gate, 1).mul_(gate).mul_(grad)


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = _logistic(x)
        value = x * gate
        ctx.save_for_backward(gate, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate, value = ctx.saved_tensors
        return torch.rsub(gate, 1).mul_(value).add_(gate).mul_(grad)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs().neg_().exp_().log1p_().add_(x.clamp(min=0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _logistic(x).mul_(grad)
