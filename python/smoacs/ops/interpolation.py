"""Rows of a table at numbers between its knots: a function of one number, computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smoacs.ops._grouping import grouped
from smoacs.ops._native import addresses, check_tensor, kernels, launch
from smoacs.ops._operator import operator


def interpolate(table: Tensor, values: Tensor, *, low: float, step: float) -> Tensor:
    """Row ``(value - low) / step`` of a table, by the polynomial through the six rows around.

    For a function with bounded sixth derivative the error falls with the sixth power of ``step``.
    Numbers closer to the ends of the table than two steps are extrapolated. Gradients are those of
    the polynomial; there is no second derivative.

    Parameters
    ----------
    table : Tensor (K, F), float32 or float64
        Row k belongs to the number ``low + k * step``; K >= 6.
    values : Tensor (N,), same dtype
    low, step : float

    Returns
    -------
    Tensor (N, F)

    Raises
    ------
    ValueError
        If a shape or a device does not fit, or ``step`` is not positive.
    TypeError
        If a dtype does not.
    """
    check_tensor("table", table, (None, None), (torch.float32, torch.float64), table.device)
    check_tensor("values", values, (None,), table.dtype, table.device)
    if table.shape[0] < kernels().STENCIL:
        raise ValueError(f"table must have at least 6 rows, got {table.shape[0]}")
    if not step > 0:
        raise ValueError(f"step must be positive, got {step}")
    return _interpolate(table.contiguous(), values.contiguous(), low, step)


def _lookup(table: Tensor, values: Tensor, low: float, step: float) -> Any:
    return kernels().Lookup(
        n_values=values.shape[0],
        n_knots=table.shape[0],
        n_columns=table.shape[1],
        low=low,
        step=step,
        **addresses(table=table, values=values),
    )


@operator(
    "interpolate_backward",
    fake=lambda grad, table, values, *_: torch.empty_like(values),
)
def _values_backward(
    grad: Tensor, table: Tensor, values: Tensor, low: float, step: float
) -> Tensor:
    grad_values = torch.empty_like(values)
    lookup = _lookup(table, values, low, step)
    launch("interpolate_backward", table, lookup, grad=grad, grad_values=grad_values)
    return grad_values


@operator(
    "interpolation_table_backward",
    fake=lambda grad, table, values, *_: torch.empty_like(table),
)
def _table_backward(grad: Tensor, table: Tensor, values: Tensor, low: float, step: float) -> Tensor:
    lookup = _lookup(table, values, low, step)
    first = torch.empty(values.shape, dtype=torch.int64, device=values.device)
    launch("first_knots", table, lookup, first=first)
    by_first, start = grouped(first, table.shape[0])
    grad_table = torch.empty_like(table)
    launch(
        "table_backward",
        table,
        lookup,
        grad=grad,
        by_first=by_first,
        start=start,
        grad_table=grad_table,
    )
    return grad_table


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, values, *ctx.place = inputs
    ctx.save_for_backward(table, values)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad = grad.contiguous()
    of_table, of_values, *_ = ctx.needs_input_grad
    return (
        _table_backward(grad, *ctx.saved_tensors, *ctx.place) if of_table else None,
        _values_backward(grad, *ctx.saved_tensors, *ctx.place) if of_values else None,
        None,
        None,
    )


@operator(
    "interpolate",
    fake=lambda table, values, *_: table.new_empty(values.shape[0], table.shape[1]),
    backward=_backward,
    setup_context=_save,
)
def _interpolate(table: Tensor, values: Tensor, low: float, step: float) -> Tensor:
    out = table.new_empty(values.shape[0], table.shape[1])
    launch("interpolate", table, _lookup(table, values, low, step), out=out)
    return out
