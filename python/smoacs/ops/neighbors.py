"""Complete periodic neighbour lists of a batch of crystals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from smoacs.ops import _steps
from smoacs.ops._grouping import grouped
from smoacs.ops._native import addresses, check_tensor, dtype_name, kernels
from smoacs.ops._operator import operator
from smoacs.ops._steps import Query
from smoacs.ops.gated_messages import Incidence

RULES = ("radius", "knn", "knn_shell")


@dataclass(frozen=True)
class NeighborList:
    """Directed edges between sites and periodic images of sites.

    An edge leads from site ``src`` of the home cell to the image ``shift`` of site ``dst``; its
    vector is ``(f_dst + shift - f_src) @ lattice`` for the coordinates that the list was made of.
    Edges are ordered by (``src``, ``dst``, ``shift``), so those of one site are contiguous, and
    those of one crystal.

    Attributes
    ----------
    src, dst : Tensor (E,), int64
        Sites, counted through the batch.
    shift : Tensor (E, 3), int32
        Lattice vectors to add to ``dst``.
    distance : Tensor (E,), float
        Length in Å, of the coordinates' dtype, without gradient.
    edge_ptr : Tensor (C + 1,), int64
        Offsets of the crystals' edges, from 0 to E, or, with a capacity, to their number.
    """

    src: Tensor
    dst: Tensor
    shift: Tensor
    distance: Tensor
    edge_ptr: Tensor

    def incidence(self, n_sites: int) -> Incidence:
        """The edges that start and end at each of the S sites that the list was made for."""
        # They are in the order of their sources.
        first_out = torch.searchsorted(self.src, torch.arange(n_sites + 1, device=self.src.device))
        by_src = torch.arange(len(self.src), device=self.src.device)
        return Incidence(self.src, self.dst, by_src, first_out, *grouped(self.dst, n_sites))


def neighbor_list(
    frac_coords: Tensor,
    lattice: Tensor,
    ptr: Tensor,
    *,
    cutoff: float,
    k: int | None = None,
    rule: str = "radius",
    tie_tolerance: float = 1e-3,
    capacity: int | None = None,
) -> NeighborList:
    """All directed edges that a rule selects, periodic images of a site with itself included.

    Any cell is right: skewed, elongated, left-handed, or smaller than the cutoff. Distances are
    computed in double precision whatever the input.

    Rules
    -----
    ``"radius"``
        Every pair with distance <= cutoff, coinciding sites included.
    ``"knn"``
        The ``k`` nearest of each source among the pairs with 1e-4 Å < distance <= cutoff, or all
        of them if there are fewer; ties go to the lower (rounded distance, ``dst``, ``shift``).
    ``"knn_shell"``
        The rule of ALIGNN v1 (``nearest_neighbor_edges`` with ``use_canonize``) among the pairs
        with distance > 0.15 Å: a source's shell holds everything up to its ``k``-th distance plus
        ``tie_tolerance``, and an edge is kept if it belongs to the shell of either end. An edge
        between images of one site is listed **twice**, once for each end, because ALIGNN v1 counts
        such bonds twice. ``cutoff`` only starts the search, which is extended as far as necessary.
        With ``tie_tolerance=0`` distances are computed like there, from positions by a lattice
        rounded to five decimals, so that its edges are reproduced exactly.

    Parameters
    ----------
    frac_coords : Tensor (S, 3), float32 or float64
        Fractional coordinates; they need not lie in the cell, and shifts refer to them as given.
    lattice : Tensor (C, 3, 3), same dtype
        Lattice vectors in Å, one per row.
    ptr : Tensor (C + 1,), int64
        Offsets of the crystals' sites, from 0 to S.
    cutoff : float
        Radius in Å.
    k : int, optional
        Neighbours per site; required by the two knn rules.
    rule : {"radius", "knn", "knn_shell"}
    tie_tolerance : float
        Distances in Å that differ by less count as equal.
    capacity : int, optional
        Number E of rows. It spares waiting for a GPU to count the edges, so that the call can be
        captured in a CUDA graph. Rows that are not edges have ``src`` and ``dst`` S, an infinite
        distance and no shift; all ops take such lists. Edges beyond the capacity are dropped, which
        shows in ``edge_ptr[-1]``, then larger than E; on a GPU it is -1 for crystals that are not
        valid, for which nothing is raised.

    Raises
    ------
    ValueError
        If a crystal has no volume, is not finite or has too many pairs to list (the crystal is
        named), or an argument is out of range.
    TypeError
        If a tensor has the wrong dtype.
    """
    device = frac_coords.device if isinstance(frac_coords, Tensor) else torch.device("cpu")
    check_tensor("frac_coords", frac_coords, (None, 3), (torch.float32, torch.float64), device)
    check_tensor("lattice", lattice, (None, 3, 3), frac_coords.dtype, device)
    check_tensor("ptr", ptr, (lattice.shape[0] + 1,), torch.int64, device)
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if rule != "radius" and (k is None or k < 1):
        raise ValueError(f"rule {rule!r} needs k of at least 1, got {k}")
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
    if not (math.isfinite(tie_tolerance) and tie_tolerance >= 0):
        raise ValueError(f"tie_tolerance must be finite and not negative, got {tie_tolerance}")
    check_capacity(capacity)
    return NeighborList(
        *_neighbor_list(
            frac_coords.detach().contiguous(),
            lattice.detach().contiguous(),
            ptr.contiguous(),
            rule,
            float(cutoff),
            k or 0,
            float(tie_tolerance),
            capacity,
        )
    )


def check_capacity(capacity: int | None) -> None:
    """Raise ValueError for a negative number of rows."""
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must not be negative, got {capacity}")


def fit(room: Tensor, rows: Tensor) -> Tensor:
    """Copy as many rows as there is room for; returns ``room``."""
    room[: rows.shape[0]] = rows[: room.shape[0]]
    return room


def _outputs(
    frac_coords: Tensor, ptr: Tensor, n_edges: int | torch.SymInt
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        ptr.new_empty(n_edges),
        ptr.new_empty(n_edges),
        ptr.new_empty(n_edges, 3, dtype=torch.int32),
        frac_coords.new_empty(n_edges),
        torch.empty_like(ptr),
    )


def _fake(
    frac_coords: Tensor,
    lattice: Tensor,
    ptr: Tensor,
    rule: str,
    cutoff: float,
    k: int,
    tie_tolerance: float,
    capacity: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size() if capacity is None else capacity
    return _outputs(frac_coords, ptr, size)


@operator("neighbor_list", fake=_fake, constant=True)
def _neighbor_list(
    frac_coords: Tensor,
    lattice: Tensor,
    ptr: Tensor,
    rule: str,
    cutoff: float,
    k: int,
    tie_tolerance: float,
    capacity: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    query = Query(rule, cutoff, k, tie_tolerance)
    if not ptr.is_cpu:
        return _steps.neighbor_list(frac_coords, lattice, ptr, query, capacity)
    found = kernels().find_neighbors(  # names would cost 1 µs
        frac_coords.data_ptr(),
        lattice.data_ptr(),
        ptr.data_ptr(),
        frac_coords.shape[0],
        lattice.shape[0],
        dtype_name(frac_coords),
        *query,
    )
    src, dst, shift, distance, edge_ptr = _outputs(frac_coords, ptr, found.n_edges)
    found.write(
        **addresses(src=src, dst=dst, shift=shift, distance=distance, edge_ptr=edge_ptr),
        dtype=dtype_name(frac_coords),
    )
    if capacity is not None:
        rows = _steps.no_edges(frac_coords, capacity)
        src, dst, shift, distance = map(fit, rows, (src, dst, shift, distance))
    return src, dst, shift, distance, edge_ptr
