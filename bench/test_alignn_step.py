"""One prediction with its gradients, beside alignn's own network and the bare matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import machine
import peers
from machine import Shape
from peers import Peer, Peers
from race import OURS, Function, Place
from record import Case, Goal
from smoacs.predictors import load
from smoacs.predictors.alignn import ALIGNN
from smoacs.predictors.alignn_predictor import ALIGNNPredictor
from smoacs.predictors.base import Graph
from workloads import Cells, full_size_alignn, perovskites, supercells

SUITE = "ALIGNN step, forward and input gradients"
PRODUCTS = "torch's matrix products alone"
BUNDLED, FULL = "bundled", "hidden 256, 4 + 4 layers"
MODELS: dict[str, Callable[[], ALIGNNPredictor]] = {
    BUNDLED: lambda: load("smoacs-alignn-mp"),
    FULL: partial(full_size_alignn, norm="layer"),
}


class Step:
    """A model and a batch, ready for one step.

    Attributes
    ----------
    run : callable
        Gradients of the summed values of all crystals, by lattice, coordinates and composition.
    floor : (str, callable)
        The network's matrix products: on a CPU our own, on a GPU torch's.
    size : (int, str)
        Number of bond pairs.
    """

    def __init__(self, model: str, cells: Cells, device: str) -> None:
        predictor = MODELS[model]().to(device)
        crystals = cells.to(device).batch()
        leaves = (crystals.lattice, crystals.frac_coords, crystals.composition)
        for leaf in leaves:
            leaf.requires_grad_()
        assert predictor.graph is not None
        graph = Graph.build(crystals, predictor.graph)
        assert graph.line is not None

        def run() -> tuple[Tensor, ...]:
            values = predictor.predict(crystals, graph).values()
            return torch.autograd.grad(torch.stack(list(values)).sum(), leaves)

        self.run: Function = run
        self._other = partial(peers.alignn_network, predictor, crystals, graph)
        sizes = len(crystals.frac_coords), len(graph.neighbors.src), len(graph.line.src)
        shapes = matrix_products(predictor.network, *sizes)
        owner = "our own" if device == "cpu" else "torch's"
        self.floor = (f"{owner} products alone", machine.products(shapes, device))
        self._products = machine.products(shapes, device, functional.linear)
        self.size = (len(graph.line.src), "bond pairs")

    @cached_property
    def peers(self) -> Peers:
        """Other networks; compiling one takes half a minute."""
        return self._other()

    def beside_products(self, peers: Peers) -> Peers:
        """Peers and torch's products, which no change of ours can make slower or faster."""
        return replace(peers, present=peers.present | {PRODUCTS: Peer(self._products)})


def matrix_products(network: ALIGNN, n_atoms: int, n_edges: int, n_pairs: int) -> list[Shape]:
    """Shapes (m, k, n) of the products that a network needs for outputs and input gradients.

    Embeddings of bonds and pairs need none: they are functions of one number, the length or the
    cosine, and can be looked up. Nor does the map to single numbers at the end.
    """
    c = network.config
    h = c.hidden_features
    forward = [(n_atoms, c.atom_input_features, h)]

    def convolution(nodes: int, edges: int) -> list[Shape]:
        return [(nodes, h, h)] * 4 + [(edges, h, h)]

    forward += c.alignn_layers * (convolution(n_atoms, n_edges) + convolution(n_edges, n_pairs))
    forward += c.gcn_layers * convolution(n_atoms, n_edges)
    return forward + [(m, n, k) for m, k, n in reversed(forward)]


@pytest.mark.guard
@pytest.mark.parametrize(("model", "n"), [(BUNDLED, 256), (FULL, 16)])
def test_step(compare: Any, place: Place, model: str, n: int) -> None:
    step = Step(model, perovskites(n), place.device)
    compare(
        SUITE,
        f"{model}, {n} x 5 atoms",
        place,
        step.run,
        step.beside_products(Peers() if compare.check else step.peers),
        size=step.size,
        floor=step.floor,
        reference=PRODUCTS,
    )


@pytest.mark.parametrize(("model", "n"), [(BUNDLED, 256), (FULL, 16)])
def test_threads(compare: Any, all_threads: Place, model: str, n: int) -> None:
    step = Step(model, perovskites(n), "cpu")
    name = f"{model}, {n} x 5 atoms"
    compare.scaling(SUITE, name, all_threads, step.run, size=step.size, floor=step.floor)


@pytest.mark.long
def test_full_size(compare: Any, all_threads: Place) -> None:
    step = Step(FULL, perovskites(256), "cpu")
    compare(
        SUITE,
        f"{FULL}, 256 x 5 atoms",
        all_threads,
        step.run,
        step.beside_products(step.peers),
        size=step.size,
        floor=step.floor,
        goals=(Goal(1 / 1.5, PRODUCTS),),
    )


@pytest.mark.cuda
@pytest.mark.parametrize("work", ["256 x 5 atoms", "32 x 135 atoms"])
def test_full_size_on_a_gpu(compare: Any, work: str) -> None:
    step = Step(FULL, perovskites(256) if "256 x" in work else supercells(32), "cuda")
    compare(
        SUITE,
        f"{FULL}, {work}",
        Place("cuda", torch.get_num_threads()),
        step.run,
        step.peers,
        size=step.size,
        floor=step.floor,
    )


@pytest.mark.parametrize("model", MODELS)
def test_peak_memory(session: Any, place: Place, model: str) -> None:
    step = Step(model, perovskites(32), place.device)
    contenders = {OURS: step.run, **step.peers.functions}
    try:
        peaks = {
            name: float(machine.peak_memory(run, place.device)) for name, run in contenders.items()
        }
    except OSError as error:
        pytest.skip(f"this system does not tell a process's peak memory ({error})")
    session.add(
        Case(
            SUITE,
            f"peak memory, {model}, 32 x 5 atoms",
            str(place),
            "B",
            peaks,
            size=step.size[0],
            size_of=step.size[1],
            missing=step.peers.missing,
            goals=(Goal(2.0, "alignn"),),
        )
    )


def test_peers_predict_the_same() -> None:
    step = Step(FULL, perovskites(4), "cpu")
    if not step.peers.present:
        pytest.skip(f"alignn: {step.peers.missing['alignn']}")
    for peer in step.peers.present.values():
        for mine, other in zip(step.run(), peer.run(), strict=True):
            assert torch.allclose(mine, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


@pytest.mark.parametrize("model", MODELS)
def test_every_weight_matrix_is_multiplied_with(model: str) -> None:
    """Once forward, once backward, but for those that need not be."""
    network = MODELS[model]().network
    shapes = [shape[1:] for shape in matrix_products(network, 1, 1, 1)]
    maps = [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and not name.startswith(("fc", "edge_embedding", "angle_embedding"))
    ]
    forward = [(m.in_features, m.out_features) for m in maps]
    backward = [(m.out_features, m.in_features) for m in maps]
    assert sorted(shapes) == sorted(forward + backward)
