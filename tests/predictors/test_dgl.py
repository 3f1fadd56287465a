"""Graphs as DGL has them; runs where ``smoacs[dgl]`` is installed (see docs/predictors.md)."""

from __future__ import annotations

import pytest
import torch

from smoacs.crystals import CrystalBatch
from smoacs.predictors.base import Graph, GraphSpec

dgl = pytest.importorskip("dgl", reason="smoacs[dgl] is not installed")

SPEC = GraphSpec(8.0, 12, "knn_shell", line_graph=True)


def test_a_dgl_graph_holds_the_same_bonds(rattled_crystals: CrystalBatch) -> None:
    graph = Graph.build(rattled_crystals, SPEC)
    atoms, pairs = graph.to_dgl(rattled_crystals)
    assert atoms.num_nodes() == len(rattled_crystals.frac_coords)
    assert torch.equal(
        torch.stack(atoms.edges()), torch.stack([graph.neighbors.src, graph.neighbors.dst])
    )
    torch.testing.assert_close(atoms.edata["r"].norm(dim=1), graph.neighbors.distance)
    sizes = [crystal.num_nodes() for crystal in dgl.unbatch(atoms)]
    assert sizes == rattled_crystals.n_sites.tolist()
    assert pairs.num_nodes() == atoms.num_edges()
    assert [part.num_edges() for part in dgl.unbatch(pairs)] == [
        part.num_edges() for part in map(line_of, dgl.unbatch(atoms))
    ]


def line_of(atoms: dgl.DGLGraph) -> dgl.DGLGraph:
    return atoms.line_graph(shared=True)


def test_pairs_are_those_of_dgls_own_line_graph(rattled_crystals: CrystalBatch) -> None:
    atoms, pairs = Graph.build(rattled_crystals, SPEC).to_dgl(rattled_crystals)
    expected = line_of(atoms)

    def as_set(graph: dgl.DGLGraph) -> set[tuple[int, int]]:
        return set(zip(*(end.tolist() for end in graph.edges()), strict=True))

    assert as_set(pairs) == as_set(expected)
    first, second = (atoms.edata["r"][end] for end in pairs.edges())
    cosine = -torch.nn.functional.cosine_similarity(first, second, dim=1)
    torch.testing.assert_close(pairs.edata["h"], cosine)


def test_gradients_flow_through(rattled_crystals: CrystalBatch) -> None:
    lattice = rattled_crystals.lattice.clone().requires_grad_()
    crystals = CrystalBatch(
        lattice, rattled_crystals.frac_coords, rattled_crystals.composition, rattled_crystals.ptr
    )
    atoms, pairs = Graph.build(crystals, SPEC).to_dgl(crystals)
    dgl.mean_edges(pairs, "h").sum().backward()
    assert atoms.batch_size == len(crystals)
    assert lattice.grad is not None
    assert lattice.grad.abs().max() > 0


def test_without_a_line_graph(rattled_crystals: CrystalBatch) -> None:
    atoms, pairs = Graph.build(rattled_crystals, GraphSpec(4.0)).to_dgl(rattled_crystals)
    assert pairs is None
    assert set(atoms.ndata) == {"composition"}
