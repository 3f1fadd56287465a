"""What a predictor is: properties, the graph it reads, and one differentiable function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.ops import (
    Incidence,
    LineGraph,
    NeighborList,
    edge_vectors,
    line_graph,
    neighbor_list,
    pair_cosines,
)

if TYPE_CHECKING:
    from dgl import DGLGraph


@dataclass(frozen=True)
class Property:
    """One number a predictor gives per crystal.

    Attributes
    ----------
    name : str
        Column name in results, e.g. ``"band_gap"``.
    unit : str
        Unit of the prediction, e.g. ``"eV"``.
    low, high : float
        Range of the training labels; a target outside of it cannot be met.
    """

    name: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True)
class GraphSpec:
    """Rule that turns atoms into a graph; equal specs share one graph per step.

    Attributes
    ----------
    cutoff : float
        Radius in Å.
    k : int or None
        Neighbours per atom, for the rules ``knn`` and ``knn_shell``.
    rule : {"radius", "knn", "knn_shell"}
        See :func:`smoacs.ops.neighbor_list`.
    tie_tolerance : float
        Distances that differ by less (Å) belong to one shell.
    line_graph : bool
        Whether bond pairs are needed.
    three_body_cutoff : float or None
        Only bonds up to this length (Å) form pairs; None: all.
    self_pairs : bool
        Whether a bond of an atom to its own image pairs with itself (ALIGNN 2.0 does, v1 does not).
    """

    cutoff: float
    k: int | None = None
    rule: str = "radius"
    tie_tolerance: float = 1e-3
    line_graph: bool = False
    three_body_cutoff: float | None = None
    self_pairs: bool = False


@dataclass(frozen=True)
class Graph:
    """Bonds, and bond pairs where asked for, of a batch; topology only, no geometry."""

    neighbors: NeighborList
    line: LineGraph | None = None
    _bonds: list[Incidence] = field(default_factory=list, init=False, repr=False, compare=False)

    def bonds(self, n_sites: int) -> Incidence:
        """Bonds of each of the S atoms, sorted once for all predictors."""
        if not self._bonds:
            self._bonds.append(self.neighbors.incidence(n_sites))
        return self._bonds[0]

    @cached_property
    def pairs(self) -> Incidence | None:
        """Bond pairs of each bond, sorted once for all predictors."""
        return None if self.line is None else self.line.incidence()

    @classmethod
    def build(cls, crystals: CrystalBatch, spec: GraphSpec) -> Graph:
        """Graph of the crystals' present geometry, without gradient."""
        neighbors = neighbor_list(
            crystals.frac_coords.detach(),
            crystals.lattice.detach(),
            crystals.ptr,
            cutoff=spec.cutoff,
            k=spec.k,
            rule=spec.rule,
            tie_tolerance=spec.tie_tolerance,
        )
        if not spec.line_graph:
            return cls(neighbors)
        return cls(
            neighbors,
            line_graph(neighbors, cutoff=spec.three_body_cutoff, self_pairs=spec.self_pairs),
        )

    def to_dgl(self, crystals: CrystalBatch) -> tuple[DGLGraph, DGLGraph | None]:
        """The same graph as DGL has it, for DGL models; needs ``smoacs[dgl]``.

        Parameters
        ----------
        crystals : CrystalBatch
            The crystals it was built for; their geometry may have changed since.

        Returns
        -------
        DGLGraph
            Atoms and bonds of the batch, with ``ndata["composition"]`` (S, 98),
            ``edata["r"]`` (E, 3), the bond vectors in Å, and ``edata["images"]`` (E, 3).
        DGLGraph or None
            Bonds and bond pairs, with ``edata["h"]`` (T,), the cosine of the angle between the
            bonds of each pair as ALIGNN has it: 1 for a bond and its own reverse.
        """
        import dgl

        bonds = self.neighbors
        atoms = dgl.graph((bonds.src, bonds.dst), num_nodes=len(crystals.frac_coords))
        atoms.set_batch_num_nodes(crystals.n_sites)
        atoms.set_batch_num_edges(bonds.edge_ptr.diff())
        vectors = edge_vectors(crystals.frac_coords, crystals.lattice, bonds)
        atoms.ndata["composition"] = crystals.composition
        atoms.edata["r"] = vectors
        atoms.edata["images"] = bonds.shift
        if self.line is None or self.pairs is None:
            return atoms, None
        pairs = dgl.graph((self.line.src, self.line.dst), num_nodes=len(bonds.src))
        owner = torch.bucketize(self.line.dst, bonds.edge_ptr[1:], right=True)
        pairs.set_batch_num_nodes(bonds.edge_ptr.diff())
        pairs.set_batch_num_edges(torch.bincount(owner, minlength=len(crystals)))
        pairs.edata["h"] = pair_cosines(vectors, self.pairs)
        return atoms, pairs


@runtime_checkable
class Predictor(Protocol):
    """A frozen, differentiable model of crystal properties.

    ``predict`` returns one (C,) tensor per property, differentiable with respect to the lattice,
    the coordinates and the composition. A crystal's values must not depend on its batch.
    """

    name: str
    properties: tuple[Property, ...]
    graph: GraphSpec | None
    elements: frozenset[int]

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        """Predict all properties of a batch."""
        ...

    def to(self, device: str) -> Predictor:
        """Move the weights to a device and return the predictor."""
        ...
