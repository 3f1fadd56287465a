from __future__ import annotations

import numpy as np
import pytest
import torch

from host_waits import HostWaits
from smoacs.ops import edge_vectors
from smoacs.predictors.base import Graph, GraphSpec
from smoacs.training.config import load_config
from smoacs.training.data import load_crystals
from smoacs.training.graphs import PackedGraphs

SPEC = GraphSpec(
    cutoff=6.0, k=6, rule="knn_shell", tie_tolerance=0.01, line_graph=True, three_body_cutoff=3.5
)


@pytest.fixture
def crystals(raw_config, write_config):
    return load_crystals(load_config(write_config(raw_config)))


def pairs(src: torch.Tensor, dst: torch.Tensor) -> list[tuple[int, int]]:
    return sorted(zip(src.tolist(), dst.tolist(), strict=True))


def test_a_batch_is_the_graph_of_its_crystals(crystals, monkeypatch):
    monkeypatch.setattr("smoacs.training.data.PORTION", 5)
    packed = PackedGraphs.build(crystals, SPEC)
    chosen = torch.tensor([17, 3, 4, 11, 3])
    batch = packed.batch(chosen)
    wanted = crystals.select(chosen.numpy())
    graph = Graph.build(wanted.batch(), SPEC)
    assert batch.site_ptr.tolist() == wanted.ptr.tolist()
    assert batch.atomic_numbers.tolist() == wanted.atomic_numbers.tolist()
    assert pairs(batch.src, batch.dst) == pairs(graph.neighbors.src, graph.neighbors.dst)
    assert pairs(batch.line_src, batch.line_dst) == pairs(graph.line.src, graph.line.dst)
    assert batch.line_src.numel() > 0
    torch.testing.assert_close(
        batch.vectors,
        edge_vectors(wanted.batch().frac_coords, wanted.batch().lattice, graph.neighbors).float(),
    )
    np.testing.assert_allclose(batch.targets.numpy(), wanted.targets, rtol=1e-6)


def test_bond_pairs_share_an_atom_of_one_crystal(crystals):
    batch = PackedGraphs.build(crystals, SPEC).batch(torch.arange(len(crystals)))
    assert torch.equal(batch.dst[batch.line_src], batch.src[batch.line_dst])
    lengths = batch.vectors.norm(dim=1)
    assert (lengths[batch.line_src] <= 3.5).all()
    assert (lengths[batch.line_dst] <= 3.5).all()


def test_cutting_a_batch_waits_once(crystals):
    packed = PackedGraphs.build(crystals, SPEC)
    with HostWaits() as waits:
        packed.batch(torch.tensor([3, 1, 4]))
    assert waits.places == {"training.graphs.batch": 1}


def test_graphs_without_bond_pairs(crystals):
    spec = GraphSpec(cutoff=5.0)
    batch = PackedGraphs.build(crystals, spec).batch(torch.tensor([3, 1]))
    assert batch.line_src.numel() == batch.line_dst.numel() == 0
    graph = Graph.build(crystals.select(np.array([3, 1])).batch(), spec)
    assert pairs(batch.src, batch.dst) == pairs(graph.neighbors.src, graph.neighbors.dst)
