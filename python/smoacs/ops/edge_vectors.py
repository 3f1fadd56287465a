"""Vectors along the edges of a neighbour list, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smoacs.ops import _steps
from smoacs.ops._native import addresses, check_tensor, dtype_name, kernels
from smoacs.ops._operator import operator
from smoacs.ops._steps import Edges
from smoacs.ops.neighbors import NeighborList


def edge_vectors(frac_coords: Tensor, lattice: Tensor, neighbors: NeighborList) -> Tensor:
    """``(f_dst + shift - f_src) @ lattice`` of every edge, in Å.

    Sums and products are done in double precision, gradients are summed in the order of the
    edges: a crystal's numbers do not depend on its batch. There is no second derivative.

    Parameters
    ----------
    frac_coords : Tensor (S, 3), float32 or float64
        Fractional coordinates. Since the list was made they may have moved, but not been wrapped.
    lattice : Tensor (C, 3, 3), same dtype
        Lattice vectors in Å, one per row.
    neighbors : NeighborList
        With or without a capacity; rows that are not edges have zero vectors and no part in the
        gradients.

    Returns
    -------
    Tensor (E, 3)

    Raises
    ------
    ValueError
        If the list belongs to another number of crystals, had less capacity than edges, or names
        sites that are not there. A GPU cannot tell in time: there, a list's ``edge_ptr`` says
        whether it is whole, and vectors between sites that are not there are NaN.
    TypeError
        If a tensor has the wrong dtype.
    """
    device = neighbors.src.device
    n_crystals = neighbors.edge_ptr.shape[0] - 1
    check_tensor("frac_coords", frac_coords, (None, 3), (torch.float32, torch.float64), device)
    check_tensor("lattice", lattice, (n_crystals, 3, 3), frac_coords.dtype, device)
    return _edge_vectors(
        frac_coords.contiguous(),
        lattice.contiguous(),
        neighbors.src.contiguous(),
        neighbors.dst.contiguous(),
        neighbors.shift.contiguous(),
        neighbors.edge_ptr.contiguous(),
    )


@operator(
    "edge_vectors_backward",
    fake=lambda grad, frac_coords, lattice, *_: _like(frac_coords, lattice),
)
def _edge_vectors_backward(
    grad: Tensor,
    frac_coords: Tensor,
    lattice: Tensor,
    src: Tensor,
    dst: Tensor,
    shift: Tensor,
    edge_ptr: Tensor,
) -> tuple[Tensor, Tensor]:
    edges = Edges(frac_coords, lattice, src, dst, shift, edge_ptr)
    grads = _like(frac_coords, lattice)
    run = _gradients_on_cpu if src.is_cpu else _steps.edge_vectors_backward
    run(edges, grad, *grads)
    return grads


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _edge_vectors_backward(grad.contiguous(), *ctx.saved_tensors)
    return *grads, None, None, None, None


@operator(
    "edge_vectors",
    fake=lambda frac_coords, lattice, src, *_: frac_coords.new_empty(src.shape[0], 3),
    backward=_backward,
    setup_context=_save_inputs,
)
def _edge_vectors(
    frac_coords: Tensor, lattice: Tensor, src: Tensor, dst: Tensor, shift: Tensor, edge_ptr: Tensor
) -> Tensor:
    edges = Edges(frac_coords, lattice, src, dst, shift, edge_ptr)
    out = frac_coords.new_empty(src.shape[0], 3)
    run = _vectors_on_cpu if src.is_cpu else _steps.edge_vectors
    run(edges, out)
    return out


def _vectors_on_cpu(edges: Edges, out: Tensor) -> None:
    kernels().edge_vectors(**edges.arguments(), **addresses(out=out), dtype=dtype_name(out))


def _gradients_on_cpu(
    edges: Edges, grad: Tensor, grad_frac_coords: Tensor, grad_lattice: Tensor
) -> None:
    kernels().edge_vectors_backward(
        **edges.arguments(),
        **addresses(grad=grad, grad_frac_coords=grad_frac_coords, grad_lattice=grad_lattice),
        dtype=dtype_name(grad),
    )


def _like(frac_coords: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(frac_coords), torch.empty_like(lattice)
