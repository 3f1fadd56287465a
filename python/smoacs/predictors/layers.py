"""Building blocks of the graph networks whose rows do not depend on the rest of the batch.

A candidate's prediction must not change, not even in the last bit, with the candidates that share
its batch. On the CPU, torch breaks this in several places. A matrix product rounds the last few
rows differently when their number does not fill the block its inner loop works on; rows of an odd
number of doubles, and matrices in a batch of small ones, are rounded by where in memory they begin.
The fused ``sigmoid``, ``silu``, ``softplus`` and ``elu``, and powers, round the elements at the end
of a thread's share differently from the rest; ``exp`` and plain arithmetic do not. The functions of
this module and those of ``smoacs.ops`` avoid all that, forward and backward. On a GPU they make no
such promise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from smoacs.ops import matrix_product, sigmoid, silu


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
    return matrix_product(x, weight.t(), bias)


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` on a matrix, with the promise of :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in) to (N, out)."""
        return linear(x, self.weight, self.bias)


def elu(x: Tensor) -> Tensor:
    """Of every element, itself where positive, else ``exp(x) - 1``."""
    return torch.where(x > 0, x, x.clamp(max=0).exp() - 1)


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
    return _GaussianExpansion.apply(values, centers, gamma)


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
    return add_at_(values.new_zeros(size, values.shape[1]), index, values)


def add_at_(total: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Add rows (N, F) to those that ``index`` (N,) names, in the order of the rows; in place."""
    if total.is_cpu:
        return total.index_add_(0, index, values)
    # index_add knows no order on a GPU; this sorts by index first.
    return total.index_put_((index,), values, accumulate=True)


def crystal_index(ptr: Tensor, n_sites: int) -> Tensor:
    """Crystal that owns each site, (S,) int64, from the offsets ``ptr`` (C + 1,)."""
    return torch.repeat_interleave(
        torch.arange(ptr.numel() - 1, device=ptr.device), ptr.diff(), output_size=n_sites
    )


class _GaussianExpansion(torch.autograd.Function):
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


class _SiLULayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return silu(x)


class _SigmoidLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)


def independent_rows(network: nn.Module) -> nn.Module:
    """Put functions that keep this promise in place of a network's linear maps and activations.

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
