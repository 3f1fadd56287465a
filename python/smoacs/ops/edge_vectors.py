"""Vectors along the edges of a neighbour list, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smoacs.ops import _steps
from smoacs.ops._native import check_tensor, dtype_name, kernels
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

    Returns
    -------
    Tensor (E, 3)

    Raises
    ------
    ValueError
        If the list belongs to another number of crystals, or names sites that are not there (on a
        GPU, which cannot tell in time, the vectors of such edges are NaN).
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


@torch.library.custom_op("smoacs::edge_vectors", mutates_args=(), device_types="cpu")
def _edge_vectors(
    frac_coords: Tensor, lattice: Tensor, src: Tensor, dst: Tensor, shift: Tensor, edge_ptr: Tensor
) -> Tensor:
    out = frac_coords.new_empty(src.shape[0], 3)
    kernels().edge_vectors(
        **_addresses(frac_coords, lattice, src, dst, shift, edge_ptr), out=out.data_ptr()
    )
    return out


@torch.library.custom_op("smoacs::edge_vectors_backward", mutates_args=(), device_types="cpu")
def _edge_vectors_backward(
    grad: Tensor,
    frac_coords: Tensor,
    lattice: Tensor,
    src: Tensor,
    dst: Tensor,
    shift: Tensor,
    edge_ptr: Tensor,
) -> tuple[Tensor, Tensor]:
    grad_frac_coords, grad_lattice = torch.empty_like(frac_coords), torch.empty_like(lattice)
    kernels().edge_vectors_backward(
        **_addresses(frac_coords, lattice, src, dst, shift, edge_ptr),
        grad=grad.data_ptr(),
        grad_frac_coords=grad_frac_coords.data_ptr(),
        grad_lattice=grad_lattice.data_ptr(),
    )
    return grad_frac_coords, grad_lattice


def _addresses(
    frac_coords: Tensor, lattice: Tensor, src: Tensor, dst: Tensor, shift: Tensor, edge_ptr: Tensor
) -> dict[str, Any]:
    return {
        "frac_coords": frac_coords.data_ptr(),
        "lattice": lattice.data_ptr(),
        "src": src.data_ptr(),
        "dst": dst.data_ptr(),
        "shift": shift.data_ptr(),
        "edge_ptr": edge_ptr.data_ptr(),
        "n_edges": src.shape[0],
        "n_crystals": lattice.shape[0],
        "n_sites": frac_coords.shape[0],
        "dtype": dtype_name(frac_coords),
    }


_edge_vectors.register_kernel("cuda")(_steps.edge_vectors)
_edge_vectors_backward.register_kernel("cuda")(_steps.edge_vectors_backward)


@_edge_vectors.register_fake
def _(
    frac_coords: Tensor, lattice: Tensor, src: Tensor, dst: Tensor, shift: Tensor, edge_ptr: Tensor
) -> Tensor:
    return frac_coords.new_empty(src.shape[0], 3)


@_edge_vectors_backward.register_fake
def _(
    grad: Tensor,
    frac_coords: Tensor,
    lattice: Tensor,
    src: Tensor,
    dst: Tensor,
    shift: Tensor,
    edge_ptr: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(frac_coords), torch.empty_like(lattice)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_frac_coords, grad_lattice = _edge_vectors_backward(grad.contiguous(), *ctx.saved_tensors)
    return grad_frac_coords, grad_lattice, None, None, None, None


_edge_vectors.register_autograd(_backward, setup_context=_save_inputs)
