"""Complete directed neighbour lists beside those of other packages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import machine
import peers
from race import FLOOR, Function, Place
from record import Goal
from smoacs.ops import NeighborList, neighbor_list
from workloads import ANCHORS, GROWTH, Cells

SUITE = "neighbour lists"


def search(cells: Cells) -> NeighborList:
    """The complete list in double precision."""
    return neighbor_list(cells.frac_coords, cells.lattice, cells.ptr, cutoff=cells.cutoff)


def traffic(cells: Cells, found: NeighborList, device: str) -> tuple[str, Function]:
    """Floor: inputs read once, the list written once."""
    inputs = (cells.frac_coords, cells.lattice, cells.ptr)
    outputs = (found.src, found.dst, found.shift, found.distance, found.edge_ptr)
    n_bytes = sum(tensor.nbytes for tensor in (*inputs, *outputs))
    return f"{n_bytes / 1e6:.3g} MB, copied", machine.copy(n_bytes, device)


def check_sizes(others: peers.Peers, n_pairs: int) -> None:
    """Peers must have done the same work; single precision may decide a few pairs otherwise."""
    for name, peer in others.present.items():
        size = peer.size(peer.run())
        assert size == pytest.approx(n_pairs, rel=1e-4), f"{name} finds {size} of {n_pairs} pairs"


@pytest.mark.guard
@pytest.mark.parametrize("name", ANCHORS)
def test_anchors(compare: Any, place: Place, name: str) -> None:
    cells = ANCHORS[name]().to(place.device)
    found = search(cells)
    reference = "pymatgen"
    others = peers.prepare(peers.NEIGHBOR_LISTS, cells, place, compare.only(reference))
    check_sizes(others, len(found.src))
    compare(
        SUITE,
        name,
        place,
        lambda: search(cells),
        others,
        size=(len(found.src), "pairs"),
        floor=traffic(cells, found, place.device),
        goals=(Goal(2.0),) if place.device == "cpu" else (),
        reference=reference if place.device == "cpu" else FLOOR,
    )


@pytest.mark.parametrize("name", GROWTH)
def test_growth(compare: Any, place: Place, name: str) -> None:
    cells = GROWTH[name]().to(place.device)
    found = search(cells)
    makers = {"pymatgen": peers.NEIGHBOR_LISTS["pymatgen"], "vesin": peers.NEIGHBOR_LISTS["vesin"]}
    compare(
        SUITE,
        name,
        place,
        lambda: search(cells),
        peers.prepare(makers, cells, place),
        size=(len(found.src), "pairs"),
        floor=traffic(cells, found, place.device),
    )


@pytest.mark.parametrize("name", ANCHORS)
def test_threads(compare: Any, all_threads: Place, name: str) -> None:
    cells = ANCHORS[name]()
    found = search(cells)
    compare.scaling(
        SUITE,
        name,
        all_threads,
        lambda: search(cells),
        size=(len(found.src), "pairs"),
        floor=traffic(cells, found, "cpu"),
    )


def test_single_precision_costs_no_more(compare: Any, place: Place) -> None:
    """What the design loop asks for."""
    double = ANCHORS["W1: 256 x 5 atoms"]().to(place.device)
    cells = double.to(place.device, torch.float32)
    compare(
        SUITE,
        "W1 in single precision",
        place,
        lambda: search(cells),
        peers.Peers({"double precision": peers.Peer(lambda: search(double))}),
        size=(len(search(cells).src), "pairs"),
    )
