"""The same work done by other packages; each is left out, with the reason, where it cannot run.

A peer is prepared with what its own users would keep between calls (its objects, Cartesian
coordinates, memory it lets them reuse), and is then a function of no arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from race import Function, Place
from smoacs.crystals import CrystalBatch
from smoacs.ops import reference_neighbors
from smoacs.predictors.alignn_predictor import ALIGNNPredictor
from smoacs.predictors.base import Graph
from smoacs.predictors.element_features import cgcnn_table
from workloads import Cells, Softmax


class UnfitError(Exception):
    """A peer cannot do this work; the message says why."""


@dataclass(frozen=True)
class Peer:
    """Another package's way to do the work.

    Attributes
    ----------
    run : callable
        Does the work once.
    size : callable
        How much a result of ``run`` holds (pairs, edges), to compare with ours.
    """

    run: Function
    size: Callable[[Any], int] = len


@dataclass(frozen=True)
class Peers:
    """Peers that are there, and why the others are not."""

    present: dict[str, Peer] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def functions(self) -> dict[str, Function]:
        """What to time."""
        return {name: peer.run for name, peer in self.present.items()}

    def tried(self) -> Peers:
        """The same, but peers that fail here (no compiler, out of memory) count as missing.

        Ours must be measured whatever other packages do on a machine nobody has tried.
        """
        kept = Peers(missing=dict(self.missing))
        for name, peer in self.present.items():
            try:
                peer.run()
            except Exception as error:
                kept.missing[name] = _reason(error)
                torch.cuda.empty_cache()
            else:
                kept.present[name] = peer
        return kept


Prepare = Callable[[Cells, Place], Peer]


def prepare(
    makers: Mapping[str, Prepare], cells: Cells, place: Place, only: str | None = None
) -> Peers:
    """Prepare all peers that can run, or a single one."""
    peers = Peers()
    for name, make in makers.items():
        if only not in (None, name):
            continue
        try:
            peers.present[name] = make(cells, place)
        except Exception as error:
            peers.missing[name] = _reason(error)
    return peers.tried()


def _reason(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, UnfitError):
        return line
    return f"not installed ({line})" if isinstance(error, ImportError) else f"fails here: {line}"


def _only_on_cpu(place: Place) -> None:
    if place.device != "cpu":
        raise UnfitError("runs on the CPU only")


# --- Complete directed neighbour lists ---------------------------------------------------------


def _matscipy(cells: Cells, place: Place) -> Peer:
    from matscipy.neighbours import neighbour_list

    _only_on_cpu(place)
    periodic = np.ones(3, bool)
    crystals = [(x.numpy(), lattice.numpy()) for x, lattice in cells.crystals()]

    def run() -> list[Sequence[np.ndarray]]:
        return [
            neighbour_list("ijSd", pbc=periodic, cell=lattice, positions=x, cutoff=cells.cutoff)
            for x, lattice in crystals
        ]

    return Peer(run, _total_of_first)


def _pymatgen(cells: Cells, place: Place) -> Peer:
    from pymatgen.optimization.neighbors import find_points_in_spheres

    _only_on_cpu(place)
    periodic = np.ones(3, dtype=np.int64)
    crystals = [(x.numpy().copy(), lattice.numpy().copy()) for x, lattice in cells.crystals()]

    def run() -> list[Sequence[np.ndarray]]:
        return [find_points_in_spheres(x, x, cells.cutoff, periodic, cell) for x, cell in crystals]

    # Each atom finds itself too; to take it out would only cost time.
    return Peer(run, lambda found: _total_of_first(found) - cells.n_sites)


def _vesin(cells: Cells, place: Place) -> Peer:
    from vesin import NeighborList

    search = NeighborList(cutoff=cells.cutoff, full_list=True, n_threads=place.threads)
    crystals: Sequence[Any] = list(cells.crystals())
    if place.device == "cpu":
        crystals = [(x.numpy(), lattice.numpy()) for x, lattice in crystals]
    # Views of the search's own memory last until its next call: enough for one crystal only.
    copy = len(crystals) > 1

    def run() -> list[Sequence[Tensor]]:
        return [search.compute(x, cell, True, "PSd", copy=copy) for x, cell in crystals]

    return Peer(run, _total_of_first)


def _nvalchemi(method: str, largest: int) -> Prepare:
    """One algorithm of nvalchemi-toolkit-ops, for crystals up to a number of atoms.

    Its cheapest form: a matrix of neighbours without distances, as wide as it must be.
    """

    def make(cells: Cells, place: Place) -> Peer:
        import warp
        from nvalchemiops.torch.neighbors import neighbor_list

        if cells.n_sites // len(cells) > largest:
            raise UnfitError(f"takes too long for crystals of more than {largest:,} atoms")
        warp.config.log_level = warp.LOG_ERROR
        x, cell = cells.positions().float(), cells.lattice.float()
        periodic = torch.ones(len(cells), 3, dtype=torch.bool, device=place.device)
        options = {"method": method, "batch_ptr": cells.ptr.int()}
        first = neighbor_list(x, cells.cutoff, cell, periodic, max_neighbors=1024, **options)
        most = int(first[1].max())

        def run() -> tuple[Tensor, ...]:
            return neighbor_list(x, cells.cutoff, cell, periodic, max_neighbors=most, **options)

        return Peer(run, lambda found: int(found[1].sum()))

    return make


def _total_of_first(found: Sequence[Sequence[Any]]) -> int:
    return sum(len(first) for first, *_ in found)


NEIGHBOR_LISTS: dict[str, Prepare] = {
    "pymatgen": _pymatgen,
    "matscipy": _matscipy,
    "vesin": _vesin,
    "nvalchemi, naive": _nvalchemi("naive", 200),
    "nvalchemi, cells": _nvalchemi("cell_list", 1_000_000),
}


# --- ALIGNN graphs: k nearest neighbours and bond pairs -------------------------------------------


def _alignn_v1(k: int) -> Prepare:
    """The builder of the first generation, as its own graphs are made, without DGL."""

    def make(cells: Cells, place: Place) -> Peer:
        from alignn.graphs import build_undirected_edgedata, nearest_neighbor_edges
        from alignn.torch_graph_builder import _line_graph_edges
        from jarvis.core.atoms import Atoms

        _only_on_cpu(place)
        crystals = [
            Atoms(
                lattice_mat=lattice.numpy(),
                coords=x.numpy(),
                elements=["O"] * len(x),
                cartesian=True,
            )
            for x, lattice in cells.crystals()
        ]
        starts = cells.ptr.tolist()

        def run() -> tuple[Tensor, ...]:
            ends = []
            for start, atoms in zip(starts, crystals, strict=False):
                edges, _ = nearest_neighbor_edges(
                    atoms=atoms, cutoff=cells.cutoff, max_neighbors=k, use_canonize=True
                )
                u, v, _, _ = build_undirected_edgedata(atoms, edges)
                ends.append(torch.stack([u, v]) + start)
            u, v = torch.cat(ends, 1)
            return u, v, *_line_graph_edges(u, v, cells.n_sites)

        return Peer(run, lambda found: len(found[0]))

    return make


def _alignn_v2(k: int) -> Prepare:
    """The builder in torch of version 2.0."""

    def make(cells: Cells, place: Place) -> Peer:
        from alignn.torch_graph_builder import _line_graph_edges, torch_neighbor_list

        crystals = [(x.float(), lattice.float()) for x, lattice in cells.crystals()]
        starts = cells.ptr.tolist()

        def run() -> tuple[Tensor, ...]:
            ends = []
            for start, (x, lattice) in zip(starts, crystals, strict=False):
                u, v, _, _ = torch_neighbor_list(x, lattice, cells.cutoff, k)
                ends.append(torch.stack([u, v]) + start)
            u, v = torch.cat(ends, 1)
            return u, v, *_line_graph_edges(u, v, cells.n_sites)

        return Peer(run, lambda found: len(found[0]))

    return make


def alignn_graphs(rule: str, k: int) -> dict[str, Prepare]:
    """Builders of graphs by the rule ``knn_shell`` (first generation) or ``knn`` (2.0)."""
    return {"alignn": _alignn_v1(k) if rule == "knn_shell" else _alignn_v2(k)}


# --- A step of ALIGNN --------------------------------------------------------------------------


def alignn_network(predictor: ALIGNNPredictor, crystals: CrystalBatch, graph: Graph) -> Peers:
    """The network of alignn 2.0 in plain torch, with our weights, graph and differentiable inputs.

    ``run`` gives the gradients of the summed outputs. Compiled, it is for graphs of any size, as
    those of a design change at every step.
    """
    try:
        from alignn.models.alignn_atomwise_pure import ALIGNNAtomWisePure, ALIGNNAtomWisePureConfig
        from alignn.torch_graph_builder import TorchGraph
    except ImportError as error:
        return Peers(missing={"alignn": _reason(error)})
    ours = predictor.network
    if ours.config.norm != "layer" or graph.line is None:
        return Peers(missing={"alignn": "its network in torch is of version 2.0 only"})
    fields = ALIGNNAtomWisePureConfig.model_fields
    shape = {name: value for name, value in vars(ours.config).items() if name in fields}
    off = {"gradwise_weight": 0.0, "use_penalty": False, "energy_mult_natoms": False}
    config = ALIGNNAtomWisePureConfig(name="alignn_atomwise_pure", **shape, **off)
    network = ALIGNNAtomWisePure(config)
    network.load_state_dict(ours.state_dict() | {"_species_table": network._species_table})
    network.to(crystals.ptr.device).eval().requires_grad_(False)
    bonds, pairs = graph.neighbors, graph.line
    table = cgcnn_table().to(crystals.ptr.device)
    leaves = (crystals.lattice, crystals.frac_coords, crystals.composition)

    def run(network: Callable[..., Any]) -> tuple[Tensor, ...]:
        vectors = reference_neighbors.edge_vectors(crystals.frac_coords, crystals.lattice, bonds)
        features = crystals.composition @ table
        atoms = TorchGraph(
            len(features),
            bonds.src,
            bonds.dst,
            {"atom_features": features},
            {"r": vectors},
            batch_num_nodes=crystals.n_sites,
        )
        lines = TorchGraph(len(vectors), pairs.src, pairs.dst, {"r": vectors})
        out = network((atoms, lines, crystals.lattice))["out"]
        return torch.autograd.grad(out.sum(), leaves)

    compiled = torch.compile(network, dynamic=True)
    return Peers(
        {"alignn": Peer(partial(run, network)), "torch.compile": Peer(partial(run, compiled))}
    ).tried()


# --- Masked softmax in torch ----------------------------------------------------------------------


def softmax_formula(work: Softmax, element_logits: Tensor, pattern_logits: Tensor) -> Tensor:
    """The paper's equations 4 and 5 as its users would write them (method, section 2)."""
    t = work.temperature
    sites_per_crystal = len(element_logits) // len(pattern_logits)
    masked = element_logits.clamp_min(1e-6)[:, None, :] * work.allowed
    p = (masked / t).softmax(-1)
    q = (pattern_logits.clamp_min(1e-6) / t).softmax(-1)
    mixture = (q.repeat_interleave(sites_per_crystal, 0)[:, :, None] * p).sum(1)
    return (mixture / t).softmax(-1)


# --- Ourselves, otherwise ------------------------------------------------------------------------


def on_one_thread(function: Function) -> Function:
    """The function on a single thread of the CPU."""

    def run() -> object:
        with Place("cpu", 1).entered():
            return function()

    return run


def captured(function: Function) -> Function:
    """The function's launches as one CUDA graph."""
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
