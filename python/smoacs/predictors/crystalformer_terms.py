"""The terms of Crystalformer's lattice sums: which periodic images each atom attends to.

An atom attends to every periodic image of every atom, itself included. The Gaussian weights make
all but the images within some 10 Å negligible, so the terms come from a neighbour list.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.ops import NeighborList


@dataclass(frozen=True)
class ImageBox:
    """Images that the published networks sum over, counted for coordinates inside the cell.

    Attributes
    ----------
    minimum : int
        All images from ``-minimum`` to ``minimum`` along each lattice vector take part.
    sigmas : float or None
        Small cells take more: for each atom and head, as many as reach this many standard
        deviations of its Gaussian. None: never more.
    """

    minimum: int = 2
    sigmas: float | None = 3.5


@dataclass(frozen=True)
class LatticeTerms:
    """Images that the atoms of a batch attend to, T in total; each atom also attends to itself.

    Attributes
    ----------
    lengths : Tensor (T,), float
        Distance in Å from the atom to the image.
    squares : Tensor (T,), float
        What stands for the squared distance in the exponent, Å^2.
    atom, image_of : Tensor (T,), int64
        The atom, in ascending order, and the one that the term is an image of.
    first_term : Tensor (S + 1,), int64
        Offsets of the atoms' terms.
    ptr : Tensor (C + 1,), int64
        Offsets of the crystals' sites.
    reach : Tensor (T,), float, or None
        Only heads whose standard deviation in Å is larger see the term.
    """

    lengths: Tensor
    squares: Tensor
    atom: Tensor
    image_of: Tensor
    first_term: Tensor
    ptr: Tensor
    reach: Tensor | None

    @classmethod
    def build(
        cls,
        vectors: Tensor,
        src: Tensor,
        dst: Tensor,
        ptr: Tensor,
        n_sites: int,
        *,
        cutoff: float | None = None,
        reach: Tensor | None = None,
    ) -> LatticeTerms:
        """Terms from neighbours, differentiable in the vectors.

        Parameters
        ----------
        vectors : Tensor (E, 3), float
            Vectors of the edges from atoms to images, Å.
        src, dst : Tensor (E,), int64
            Atoms and imaged atoms, in the order of the former.
        ptr : Tensor (C + 1,), int64
            Offsets of the crystals' sites.
        n_sites : int
            Their number S.
        cutoff : float, optional
            Distance in Å where weights end smoothly.
        reach : Tensor (E,), float, optional
            Standard deviation in Å that a Gaussian must exceed to see the image.
        """
        x, y, z = vectors.unbind(1)
        # Atoms at the same place have no direction; there the gradient is zero.
        squares = (x * x + y * y + z * z).clamp(min=1e-12)
        lengths = squares.sqrt()
        if cutoff is not None:
            squares = squares / (1 - squares / cutoff**2).clamp(min=1e-6)
        first_term = torch.searchsorted(src, torch.arange(n_sites + 1, device=src.device))
        return cls(lengths, squares, src, dst, first_term, ptr, reach)


def images_in_box(
    crystals: CrystalBatch, neighbors: NeighborList, box: ImageBox, widest: float
) -> tuple[Tensor, Tensor | None]:
    """Neighbours that a box holds, without gradient.

    Parameters
    ----------
    crystals : CrystalBatch
    neighbors : NeighborList
    box : ImageBox
    widest : float
        Upper bound of the standard deviations in Å.

    Returns
    -------
    edges : Tensor (n,), int64
        Neighbours that a Gaussian may see.
    reach : Tensor (n,), float, or None
        Standard deviation in Å that it must exceed for that; None where all see all.
    """
    lattice = crystals.lattice.detach()
    normals = torch.linalg.cross(lattice.roll(-1, 1), lattice.roll(-2, 1), dim=2)
    volume = (lattice[:, 0] * normals[:, 0]).sum(1).abs()
    spacing = volume[:, None] / normals.norm(dim=2)
    cell = torch.floor(crystals.frac_coords.detach())
    image = (neighbors.shift + cell[neighbors.dst] - cell[neighbors.src]).abs()
    outside = image > box.minimum
    if box.sigmas is None:
        return torch.nonzero(~outside.any(1)).flatten(), None
    # The box holds image n if n <= ceil((sigmas * sigma + 0.01 Å) / spacing).
    crystal = crystals.crystal_index[neighbors.src]
    needed = (image - 1) * spacing[crystal] - 0.01
    reach = torch.where(outside, needed, 0.0).amax(1) / box.sigmas
    edges = torch.nonzero(reach < widest).flatten()
    reach = reach[edges]
    return edges, reach if bool((reach > 0).any()) else None
