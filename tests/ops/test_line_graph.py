from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from cells import CELLS, FCC, batch, cell, random_cell
from smoacs.ops import (
    Incidence,
    LineGraph,
    NeighborList,
    _steps,
    line_graph,
    neighbor_list,
    reference_neighbors,
)

CUTOFF = 3.7 + 0.0123456789


def assert_same(a: LineGraph, b: LineGraph) -> None:
    torch.testing.assert_close(a.src, b.src)
    torch.testing.assert_close(a.dst, b.dst)
    torch.testing.assert_close(a.pair_ptr, b.pair_ptr)


OPTIONS = {
    "all bonds": {},
    "short bonds": {"cutoff": 2.9},
    "with themselves": {"self_pairs": True},
    "short bonds, with themselves": {"cutoff": 2.9, "self_pairs": True},
    "no bonds": {"cutoff": 0.0},
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", sorted(set(CELLS) - {"tiny"}))
def test_equals_brute_force(name, options, device):
    neighbors = neighbor_list(
        *CELLS[name].to(device, torch.float64), cutoff=CUTOFF, k=4, rule="knn_shell"
    )
    pairs = line_graph(neighbors, **OPTIONS[options])
    wanted = reference_neighbors.line_graph(neighbors, **OPTIONS[options])
    assert pairs.src.device.type == device
    assert_same(pairs, wanted)


@pytest.mark.parametrize("self_pairs", [False, True])
@pytest.mark.parametrize("cutoff", [None, 2.9, 0.0])
@pytest.mark.parametrize("name", sorted(set(CELLS) - {"tiny"}))
def test_steps_of_the_gpu_find_the_same(name, cutoff, self_pairs):
    neighbors = neighbor_list(*CELLS[name], cutoff=CUTOFF, k=4, rule="knn_shell")
    keep = neighbors.distance <= (torch.inf if cutoff is None else cutoff)
    found = LineGraph(*_steps.line_graph(neighbors.src, neighbors.dst, keep, self_pairs))
    assert_same(found, line_graph(neighbors, cutoff=cutoff, self_pairs=self_pairs))


def line_graph_in_steps(neighbors, self_pairs, capacity):
    """What the GPU runs."""
    keep = neighbors.distance.isfinite()
    return LineGraph(*_steps.line_graph(neighbors.src, neighbors.dst, keep, self_pairs, capacity))


def line_graph_on_cpu(neighbors, self_pairs, capacity):
    return line_graph(neighbors, self_pairs=self_pairs, capacity=capacity)


@pytest.mark.parametrize("find", [line_graph_on_cpu, line_graph_in_steps])
@pytest.mark.parametrize("self_pairs", [False, True])
def test_given_sizes(self_pairs, find):
    arguments = {"cutoff": CUTOFF, "k": 4, "rule": "knn_shell"}
    exact = neighbor_list(*CELLS["ragged batch"], **arguments)
    wanted = line_graph(exact, self_pairs=self_pairs)
    e, n = len(exact.src) + 20, len(wanted.src)
    neighbors = neighbor_list(*CELLS["ragged batch"], **arguments, capacity=e)
    for capacity in (n + 9, n, n // 2, 0):
        found = find(neighbors, self_pairs, capacity)
        there = min(n, capacity)
        torch.testing.assert_close(found.src[:there], wanted.src[:there])
        torch.testing.assert_close(found.dst[:there], wanted.dst[:there])
        assert found.src[there:].tolist() == found.dst[there:].tolist() == [e] * (capacity - there)
        assert found.pair_ptr.tolist() == wanted.pair_ptr.tolist() + [n] * 20


def test_pairs_by_hand():
    # a -> b -> c, back along the first bond, and a bond of b to its own image.
    neighbors = NeighborList(
        src=torch.tensor([0, 1, 1, 1]),
        dst=torch.tensor([1, 0, 1, 2]),
        shift=torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.int32),
        distance=torch.tensor([1.0, 1.0, 2.0, 1.5]),
        edge_ptr=torch.tensor([0, 4]),
    )
    pairs = line_graph(neighbors)
    assert list(zip(pairs.src.tolist(), pairs.dst.tolist(), strict=True)) == [
        (1, 0),
        (0, 1),
        (2, 1),
        (0, 2),
        (0, 3),
        (2, 3),
    ]
    with_itself = line_graph(neighbors, self_pairs=True)
    assert (2, 2) in zip(with_itself.src.tolist(), with_itself.dst.tolist(), strict=True)
    short = line_graph(neighbors, cutoff=1.5)
    assert list(zip(short.src.tolist(), short.dst.tolist(), strict=True)) == [
        (1, 0),
        (0, 1),
        (0, 3),
    ]


def test_number_of_pairs():
    # A6: sum over sites of in-degree times out-degree, less the bonds of a site to its own image.
    for crystal in (FCC, random_cell(7, seed=4), CELLS["ragged batch"]):
        neighbors = neighbor_list(*crystal, cutoff=CUTOFF, k=6, rule="knn_shell")
        n = crystal.n_sites
        ways = neighbors.src.bincount(minlength=n) * neighbors.dst.bincount(minlength=n)
        loops = (neighbors.src == neighbors.dst).sum()
        assert line_graph(neighbors).src.numel() == int(ways.sum() - loops)
        assert line_graph(neighbors, self_pairs=True).src.numel() == int(ways.sum())


def test_batch_and_threads_do_not_matter():
    crystals = batch(random_cell(40, seed=1, scale=7.0), FCC, random_cell(9, seed=2))
    neighbors = neighbor_list(*crystals, cutoff=4.1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        pairs = line_graph(neighbors)
        torch.set_num_threads(3)
        torch.testing.assert_close(line_graph(neighbors).src, pairs.src)
    finally:
        torch.set_num_threads(threads)
    for c in range(3):
        start, stop = neighbors.edge_ptr[c : c + 2].tolist()
        mine = (pairs.dst >= start) & (pairs.dst < stop)
        alone = line_graph(neighbor_list(*crystals.one(c), cutoff=4.1))
        torch.testing.assert_close(pairs.src[mine] - start, alone.src)
        torch.testing.assert_close(pairs.dst[mine] - start, alone.dst)


@pytest.mark.external
def test_number_of_pairs_of_the_original_implementations(shared):
    folder = shared / "specs" / "fixtures"
    structures = json.loads((folder / "structures.json").read_text())
    v1 = json.loads((folder / "alignn1_outputs.json").read_text())["structures"]
    v2 = json.loads((folder / "alignn2_outputs.json").read_text())
    for row in structures:
        crystal = cell(row["lattice"], row["frac"])
        bonds = neighbor_list(*crystal, cutoff=8.0, k=12, rule="knn_shell", tie_tolerance=0.0)
        assert line_graph(bonds).src.numel() == v1[row["name"]]["n_line_edges_canon"]
        for graph, spec in v2["graphs"].items():
            k = spec["max_neighbors"]
            bonds = neighbor_list(
                *crystal, cutoff=spec["two_body_cutoff"], k=k, rule="knn" if k else "radius"
            )
            pairs = line_graph(bonds, cutoff=spec["three_body_cutoff"], self_pairs=True)
            assert pairs.src.numel() == v2["structures"][row["name"]][graph]["n_lg"]


@pytest.mark.parametrize("cutoff", [-1.0, float("nan")])
def test_bad_cutoff_is_explained(cutoff):
    with pytest.raises(ValueError, match="cutoff must not be negative"):
        line_graph(neighbor_list(*FCC, cutoff=3.0), cutoff=cutoff)


def test_bad_sites_are_explained():
    neighbors = neighbor_list(*FCC, cutoff=3.0)
    with pytest.raises(ValueError, match="negative site"):
        line_graph(replace(neighbors, dst=neighbors.dst - 1))


def test_operator_registration():
    neighbors = neighbor_list(*CELLS["ragged batch"], cutoff=3.0)
    keep = neighbors.distance < 2.5
    for arguments in [(False, None), (True, 300)]:
        torch.library.opcheck(
            torch.ops.smoacs.line_graph.default, (neighbors.src, neighbors.dst, keep, *arguments)
        )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("capacities", [(None, None), (900, 12000), (900, 40)])
def test_incidence_without_sorting_what_is_sorted(capacities, device):
    crystals = CELLS["ragged batch"].to(device, torch.float64)
    neighbors = neighbor_list(*crystals, cutoff=CUTOFF, capacity=capacities[0])
    pairs = line_graph(neighbors, cutoff=2.9, capacity=capacities[1])
    n_sites = len(crystals.frac_coords)
    for found, wanted in (
        (neighbors.incidence(n_sites), Incidence.of(neighbors.src, neighbors.dst, n_sites)),
        (pairs.incidence(), Incidence.of(pairs.src, pairs.dst, len(neighbors.src))),
    ):
        assert all(map(torch.equal, found, wanted))
