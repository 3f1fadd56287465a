"""Building blocks of the graph networks whose rows do not depend on the rest of the batch.

A candidate's prediction must not change, not even in the last bit, with the candidates that share
its batch. On the CPU, torch breaks this in several places. A matrix product rounds the last few
rows differently when their number does not fill the block its inner loop works on; rows of an odd
number of doubles, and matrices in a batch of small ones, are rounded by where in memory they begin.
The fused ``sigmoid``, ``silu``, ``softplus`` and ``elu``, and powers, round the elements at the end
of a thread's share differently from the rest; ``exp``, ``log1p`` and plain arithmetic do not. The
functions of this module avoid all that, forward and backward. On a GPU they make no such promise.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# A multiple of the row blocks (4 to 48) of torch's own matrix products.
_ROW_BLOCK = 96
# oneDNN keeps about half a megabyte for every number of rows that it has seen, for good. So it
# sees few: this one, and for what is left over multiples of the smaller one.
_BLOCK_ROWS, _REST_ROWS = 2048, 128
# For so many rows it pays to bring a weight into oneDNN's own order first.
_PACKED_ROWS = 4096
_SOFTPLUS_LINEAR = 20.0
# Numbers in the widest vector register (64 bytes).
_ALIGNMENT = 16
# Two such registers are what a loop over elements takes at once; a thread gets at least a grain.
_LOOP_STEP = 32
_GRAIN = 2**15


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
    if x.shape[1] % 2:  # rows of odd length begin at odd places, where doubles round differently
        x, weight = functional.pad(x, (0, 1)), functional.pad(weight, (0, 1))
    return _Linear.apply(x, weight, bias)


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` on a matrix, with the promise of :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in) to (N, out)."""
        return linear(x, self.weight, self.bias)


def batched_product(a: Tensor, b: Tensor) -> Tensor:
    """Products of pairs of small matrices, each bitwise independent of the others.

    Parameters
    ----------
    a : Tensor (N, m, k), float
    b : Tensor (N, k, n), float

    Returns
    -------
    Tensor (N, m, n)
    """
    return _BatchedProduct.apply(a, b)


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function of every element."""
    return _Sigmoid.apply(x)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))`` of every element; beyond 20 the element itself, as torch has it."""
    return _Softplus.apply(x)


def elu(x: Tensor) -> Tensor:
    """Of every element, itself where positive, else ``exp(x) - 1``."""
    return torch.where(x > 0, x, x.clamp(max=0).exp() - 1)


class Gaussians:
    """Gaussians ``exp(-(length - center)^2 / (2 width^2))``, without gradient, in reused memory.

    Each call overwrites what the last one gave. ``exp2``, four times as fast as ``exp``, rounds the
    last few elements of a thread's share differently; here shares end at whole registers.

    Parameters
    ----------
    centers : Tensor (K,), float
    width : float
    """

    def __init__(self, centers: Tensor, width: float) -> None:
        self._centers = centers
        self._factor = -0.5 / (width**2 * math.log(2))
        self._memory = centers.new_zeros(0)

    def __call__(self, lengths: Tensor) -> Tensor:
        """Values (..., K) at lengths (...); below 2^-72 they stay there."""
        shape = (*lengths.shape, len(self._centers))
        used = math.prod(shape)
        whole = _whole_shares(used)
        if len(self._memory) < whole:
            self._memory = self._centers.new_zeros(whole)
        values = self._memory[:used].view(shape)
        torch.sub(lengths[..., None], self._centers, out=values)
        # Subnormal results would make the functions ten times slower.
        values.square_().mul_(self._factor).clamp_(min=-72.0)
        self._memory[used:whole].zero_()
        self._memory[:whole].exp2_()
        return values


def gaussians(values: Tensor, centers: Tensor, gamma: float) -> Tensor:
    """Radial basis ``exp(-gamma (value - center)^2)``; below e^-72 it stays there.

    Parameters
    ----------
    values : Tensor (N,), float
    centers : Tensor (bins,), float
        Constants; no gradient flows to them.
    gamma : float
        Inverse of the squared width.

    Returns
    -------
    Tensor (N, bins)
    """
    return _Gaussians.apply(values, centers, gamma)


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
    """``x @ matrix + bias``; no row depends on how many there are."""
    if x.dtype == torch.float32 and _has_onednn():
        return _onednn_product(x.contiguous(), matrix, bias)
    rows, columns = x.shape[0], matrix.shape[1]
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


@cache
def _has_onednn() -> bool:
    """Whether oneDNN has kernels for this processor: x86 with AVX2 or AVX-512."""
    return torch.backends.mkldnn.is_available() and (
        torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    )


def _onednn_product(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """The product by oneDNN: with AVX-512 also on AMD, where the MKL of torch.mm uses none."""
    rows, columns = x.shape[0], matrix.shape[1]
    weight = matrix.t()
    if not (weight.is_contiguous() or matrix.is_contiguous()):
        weight = weight.contiguous()  # parts of a weight would get to a loop that is not optimised
    if rows >= _PACKED_ROWS:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    out = x.new_empty(rows, columns)
    for block, block_out in zip(x.split(_BLOCK_ROWS), out.split(_BLOCK_ROWS), strict=True):
        size = len(block)
        if size % _REST_ROWS:
            padded = block.new_zeros(size + -size % _REST_ROWS, block.shape[1])
            padded[:size] = block
            block = padded
        block_out.copy_(multiply(block, weight, bias, "none", [], "")[:size])
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


def _whole_shares(count: int) -> int:
    """Count of elements, enlarged so that torch gives each thread a multiple of a loop's step."""
    while True:
        threads = max(1, min(torch.get_num_threads(), -(-count // _GRAIN)))
        excess = -count % (threads * _LOOP_STEP)
        if excess == 0:
            return count
        count += excess


def _aligned(x: Tensor) -> Tensor:
    """Contiguous matrices, enlarged by zeros so that each begins at a whole vector register."""
    rows, columns = x.shape[1:]
    missing = -columns % _ALIGNMENT, -rows % _ALIGNMENT
    return (functional.pad(x, (0, missing[0], 0, missing[1])) if any(missing) else x).contiguous()


def _products(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(_aligned(a), _aligned(b))[:, : a.shape[1], : b.shape[2]]


class _BatchedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _products(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return _products(grad, b.transpose(1, 2)), _products(a.transpose(1, 2), grad)


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


class _Gaussians(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, centers: Tensor, gamma: float) -> Tensor:
        # Subnormal results would make the function ten times slower.
        basis = (values[:, None] - centers).square_().mul_(-gamma).clamp_(min=-72.0).exp_()
        ctx.save_for_backward(values, centers, basis)
        ctx.gamma = gamma
        return basis

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        values, centers, basis = ctx.saved_tensors
        slope = (values[:, None] - centers).mul_(basis).mul_(grad)
        return slope.sum(1).mul_(-2 * ctx.gamma), None, None


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        value = x.abs().neg_().exp_().log1p_().add_(x.clamp(min=0))
        return torch.where(x > _SOFTPLUS_LINEAR, x, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > _SOFTPLUS_LINEAR, grad, _logistic(x).mul_(grad))


class _SiLULayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * sigmoid(x)


class _SigmoidLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)


def independent_rows(network: nn.Module) -> nn.Module:
    """Put the functions of this module in place of a network's linear maps and activations.

    Covers ``nn.Linear``, ``nn.SiLU`` and ``nn.Sigmoid`` modules; changes the network and returns
    it. Names and values of its parameters stay.
    """
    for name, child in network.named_children():
        if type(child) is nn.Linear:
            child.__class__ = Linear
        elif type(child) is nn.SiLU:
            setattr(network, name, _SiLULayer())
        elif type(child) is nn.Sigmoid:
            setattr(network, name, _SigmoidLayer())
        else:
            independent_rows(child)
    return network
