"""Vectors along the edges of a neighbour list, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from smoacs.ops.neighbors import NeighborList


def edge_vectors(frac_coords: Tensor, lattice: Tensor, neighbors: NeighborList) -> Tensor:
    """``(f_dst + shift - f_src) @ lattice`` of every edge, in Å.

    Parameters
    ----------
    frac_coords : Tensor (S, 3), float
        Fractional coordinates, continuously moved since the list was made, but not wrapped.
    lattice : Tensor (C, 3, 3), same dtype
    neighbors : NeighborList

    Returns
    -------
    Tensor (E, 3)
    """
    crystal = torch.repeat_interleave(
        torch.arange(lattice.shape[0], device=lattice.device),
        neighbors.edge_ptr.diff(),
        output_size=neighbors.src.shape[0],
    )
    difference = frac_coords[neighbors.dst] - frac_coords[neighbors.src]
    return torch.einsum(
        "ei,eij->ej", difference + neighbors.shift.to(difference.dtype), lattice[crystal]
    )
