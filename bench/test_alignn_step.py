"""One prediction with its gradients, beside the matrix products that it cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import machine
from machine import Shape
from peers import Peers
from race import FLOOR, OURS, Function, Place
from record import Case, Goal
from smoacs.predictors import load
from smoacs.predictors.alignn import ALIGNN
from smoacs.predictors.alignn_predictor import ALIGNNPredictor
from smoacs.predictors.base import Graph
from workloads import Cells, full_size_alignn, perovskites, supercells

SUITE = "ALIGNN step, forward and input gradients"
MODELS: dict[str, Callable[[], ALIGNNPredictor]] = {
    "bundled": lambda: load("smoacs-alignn-mp"),
    "hidden 256, 4 + 4 layers": full_size_alignn,
}


class Step:
    """A model and a batch, ready for one step.

    Attributes
    ----------
    run : callable
        Values of all crystals and their gradients.
    shapes : list of (m, k, n)
        Matrix products of the network, forward and for the gradients of its inputs.
    n_pairs : int
    """

    def __init__(self, predictor: ALIGNNPredictor, cells: Cells, device: str) -> None:
        crystals = cells.to(device).batch()
        predictor = predictor.to(device)
        assert predictor.graph is not None
        graph = Graph.build(crystals, predictor.graph)
        assert graph.line is not None
        self.n_pairs = len(graph.line.src)
        sizes = len(crystals.frac_coords), len(graph.neighbors.src), self.n_pairs
        self.shapes = matrix_products(predictor.network, *sizes)
        leaves = [crystals.lattice, crystals.frac_coords, crystals.composition]
        for leaf in leaves:
            leaf.requires_grad_()

        def run() -> tuple[Tensor, ...]:
            values = predictor.predict(crystals, graph)
            total = torch.stack([value.sum() for value in values.values()]).sum()
            return torch.autograd.grad(total, leaves)

        self.run: Function = run


def matrix_products(network: ALIGNN, n_atoms: int, n_edges: int, n_pairs: int) -> list[Shape]:
    """Shapes (m, k, n) of the products that a network needs for outputs and input gradients."""
    c = network.config
    h, e = c.hidden_features, c.embedding_features
    forward = [(n_atoms, c.atom_input_features, h)]
    for n, basis in ((n_edges, c.edge_input_features), (n_pairs, c.triplet_input_features)):
        forward += [(n, basis, e), (n, e, h)]

    def convolution(nodes: int, edges: int) -> list[Shape]:
        return [(nodes, h, h)] * 4 + [(edges, h, h)]

    forward += c.alignn_layers * (convolution(n_atoms, n_edges) + convolution(n_edges, n_pairs))
    forward += c.gcn_layers * convolution(n_atoms, n_edges)
    return forward + [(m, n, k) for m, k, n in reversed(forward)]


def compare_step(compare: Callable[..., Case], name: str, place: Place, step: Step) -> Case:
    return compare(
        SUITE,
        name,
        place,
        step.run,
        Peers(),
        size=(step.n_pairs, "bond pairs"),
        floor=("its matrix products alone", machine.products(step.shapes, place.device)),
        goals=(Goal(1 / 1.5, FLOOR),) if "256" in name and "256 x 5" in name else (),
        reference=FLOOR,
    )


@pytest.mark.guard
@pytest.mark.parametrize(("model", "n"), [("bundled", 256), ("hidden 256, 4 + 4 layers", 16)])
def test_step(compare: Any, place: Place, model: str, n: int) -> None:
    step = Step(MODELS[model](), perovskites(n), place.device)
    compare_step(compare, f"{model}, {n} x 5 atoms", place, step)


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_all_threads(compare: Any, all_threads: Place, model: str) -> None:
    step = Step(MODELS[model](), perovskites(256), "cpu")
    compare_step(compare, f"{model}, 256 x 5 atoms", all_threads, step)


@pytest.mark.cuda
@pytest.mark.parametrize("work", ["256 x 5 atoms", "32 x 135 atoms"])
def test_full_size_on_a_gpu(compare: Any, work: str) -> None:
    cells = perovskites(256) if work == "256 x 5 atoms" else supercells(32)
    step = Step(full_size_alignn(), cells, "cuda")
    place = Place("cuda", torch.get_num_threads())
    compare_step(compare, f"hidden 256, 4 + 4 layers, {work}", place, step)


@pytest.mark.parametrize("model", MODELS)
def test_peak_memory(session: Any, place: Place, model: str) -> None:
    step = Step(MODELS[model](), perovskites(32), place.device)
    peak = machine.peak_memory(step.run, place.device)
    if peak is None:
        pytest.skip("this system does not tell a process's peak memory")
    session.add(
        Case(
            SUITE,
            f"peak memory, {model}, 32 x 5 atoms",
            str(place),
            "B",
            {OURS: peak},
            size=step.n_pairs,
            size_of="bond pairs",
        )
    )


@pytest.mark.parametrize("model", MODELS)
def test_every_weight_matrix_is_multiplied_with(model: str) -> None:
    """Once forward, once backward; only the last map, to single numbers, is not counted."""
    network = MODELS[model]().network
    shapes = [shape[1:] for shape in matrix_products(network, 1, 1, 1)]
    maps = [m for name, m in network.named_modules() if isinstance(m, nn.Linear) and name != "fc"]
    forward = [(m.in_features, m.out_features) for m in maps]
    backward = [(m.out_features, m.in_features) for m in maps]
    assert sorted(shapes) == sorted(forward + backward)
