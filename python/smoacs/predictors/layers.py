"""Building blocks of the graph networks whose rows do not depend on the rest of the batch.

A candidate's prediction must not change, not even in the last bit, with the candidates that share
its batch. On the CPU, torch breaks this in two places. Matrix products of few rows or few columns
take other code paths than large ones. The fused ``sigmoid``, ``silu`` and ``softplus`` round the
elements at the end of a thread's share differently from the rest; ``exp`` and ``log1p`` do not.
The functions of this module avoid both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MIN_ROWS = 64
_MIN_COLUMNS = 8


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Affine map ``x @ weight.T + bias`` whose rows are bitwise independent of their number.

    Parameters
    ----------
    x : Tensor (N, in), float
    weight : Tensor (out, in), float
    bias : Tensor (out,), float, optional

    Returns
    -------
    Tensor (N, out)
    """
    rows, columns = x.shape[0], weight.shape[0]
    if rows >= _MIN_ROWS and columns >= _MIN_COLUMNS:
        return F.linear(x, weight, bias)
    x = F.pad(x, (0, 0, 0, max(0, _MIN_ROWS - rows)))
    more_columns = max(0, _MIN_COLUMNS - columns)
    weight = F.pad(weight, (0, 0, 0, more_columns))
    bias = None if bias is None else F.pad(bias, (0, more_columns))
    return F.linear(x, weight, bias)[:rows, :columns]


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` on a matrix, with the promise of :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function of every element."""
    return 1 / (1 + torch.exp(-x))


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)`` of every element."""
    return x / (1 + torch.exp(-x))


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
