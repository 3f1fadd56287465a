"""ALIGNN's graphs, twelve nearest neighbours and their bond pairs, beside alignn's builders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import machine
import peers
from race import FLOOR, Place
from record import Goal
from smoacs.crystals import CrystalBatch
from smoacs.ops import line_graph, neighbor_list
from smoacs.predictors.base import Graph, GraphSpec
from workloads import ANCHORS, GROWTH

SUITE = "ALIGNN graphs, k = 12"
SPECS = {
    "knn_shell": GraphSpec(8.0, 12, "knn_shell", tie_tolerance=0.0, line_graph=True),
    "knn": GraphSpec(8.0, 12, "knn", tie_tolerance=1e-5, line_graph=True, self_pairs=True),
}
GENERATION = {"knn_shell": "first generation", "knn": "2.0"}
REFERENCE = "pymatgen, complete list alone"  # the guard's, since alignn is rarely installed


def n_bytes(graph: Graph) -> int:
    """Bytes of a graph's edges and pairs."""
    edges, line = graph.neighbors, graph.line
    assert line is not None
    tensors = (edges.src, edges.dst, edges.shift, edges.distance, line.src, line.dst)
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.guard
@pytest.mark.parametrize("rule", SPECS)
@pytest.mark.parametrize("name", ["W1: 256 x 5 atoms", "W2: 32 x 135 atoms"])
def test_anchors(compare: Any, place: Place, name: str, rule: str) -> None:
    cells, spec = ANCHORS[name]().to(place.device), SPECS[rule]
    crystals = cells.batch()
    graph = Graph.build(crystals, spec)
    assert graph.line is not None
    makers = peers.alignn_graphs(rule, 12)
    makers[REFERENCE] = peers.NEIGHBOR_LISTS["pymatgen"]
    others = peers.prepare(makers, cells, place, compare.only(REFERENCE))
    if "alignn" in others.present:
        alignn = others.present["alignn"]
        n_edges, wanted = alignn.size(alignn.run()), len(graph.neighbors.src)
        assert n_edges == pytest.approx(wanted, rel=0.01), f"alignn finds {n_edges} of {wanted}"
    on_cpu = place.device == "cpu"
    compare(
        SUITE,
        f"{name}, {GENERATION[rule]}",
        place,
        lambda: Graph.build(crystals, spec),
        others,
        size=(len(graph.line.src), "bond pairs"),
        floor=("the graph's bytes, copied", machine.copy(n_bytes(graph), place.device)),
        goals=(Goal(100, "alignn"),) if on_cpu and rule == "knn_shell" else (),
        reference=REFERENCE if on_cpu else FLOOR,
    )


@pytest.mark.parametrize("name", [name for name in GROWTH if "x 5" in name])
def test_growth(compare: Any, place: Place, name: str) -> None:
    crystals = GROWTH[name]().to(place.device).batch()
    graph = Graph.build(crystals, SPECS["knn_shell"])
    assert graph.line is not None
    compare(
        SUITE,
        f"{name}, first generation",
        place,
        lambda: Graph.build(crystals, SPECS["knn_shell"]),
        peers.Peers(),
        size=(len(graph.line.src), "bond pairs"),
        floor=("the graph's bytes, copied", machine.copy(n_bytes(graph), place.device)),
    )


def build_in_room(crystals: CrystalBatch, spec: GraphSpec, like: Graph) -> Graph:
    """The graph in arrays of the size of another, so that the host waits for nothing."""
    neighbors = neighbor_list(
        crystals.frac_coords,
        crystals.lattice,
        crystals.ptr,
        cutoff=spec.cutoff,
        k=spec.k,
        rule=spec.rule,
        tie_tolerance=spec.tie_tolerance,
        capacity=len(like.neighbors.src),
    )
    if like.line is None:
        return Graph(neighbors)
    return Graph(neighbors, line_graph(neighbors, capacity=len(like.line.src)))


@pytest.mark.cuda
@pytest.mark.parametrize("what", ["edges alone", "with bond pairs"])
def test_in_a_cuda_graph(compare: Any, what: str) -> None:
    crystals = ANCHORS["W1: 256 x 5 atoms"]().to("cuda").batch()
    spec = replace(SPECS["knn_shell"], line_graph=what != "edges alone")
    graph = Graph.build(crystals, spec)
    compare(
        SUITE,
        f"W1, {what}, in a CUDA graph",
        Place("cuda", torch.get_num_threads()),
        peers.captured(lambda: build_in_room(crystals, spec, graph)),
        peers.Peers({"launched one by one": peers.Peer(lambda: Graph.build(crystals, spec))}),
        size=(len(graph.neighbors.src), "edges"),
    )


def test_a_graph_in_room_is_the_same() -> None:
    crystals, spec = GROWTH["32 x 5 atoms"]().batch(), SPECS["knn_shell"]
    graph = Graph.build(crystals, spec)
    again = build_in_room(crystals, spec, graph)
    assert graph.line is not None
    assert again.line is not None
    assert torch.equal(again.neighbors.dst, graph.neighbors.dst)
    assert torch.equal(again.line.dst, graph.line.dst)


def test_threads(compare: Any, all_threads: Place) -> None:
    crystals = ANCHORS["W1: 256 x 5 atoms"]().batch()
    graph = Graph.build(crystals, SPECS["knn_shell"])
    assert graph.line is not None
    compare.scaling(
        SUITE,
        "W1: 256 x 5 atoms, first generation",
        all_threads,
        lambda: Graph.build(crystals, SPECS["knn_shell"]),
        size=(len(graph.line.src), "bond pairs"),
    )
