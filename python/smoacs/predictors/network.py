"""A frozen torch network behind the predictor protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from smoacs.crystals import CrystalBatch
from smoacs.ops import edge_vectors
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.layers import linear


class NetworkPredictor(ABC):
    """Predictor made of an element table and a network; how to call it is the subclass's part.

    Parameters
    ----------
    name : str
    network : nn.Module
        Gets frozen.
    element_table : Tensor (98, F), float32
        Features of the elements; rows of elements that are not supported are never read right.
    properties : sequence of Property
        One for each output column of the network.
    graph : GraphSpec
    elements : frozenset of int
        Atomic numbers that the network knows.
    minima : mapping from str to float
        Physical lower bounds by property; predictions are clipped there.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        element_table: Tensor,
        *,
        properties: Sequence[Property],
        graph: GraphSpec,
        elements: frozenset[int],
        minima: Mapping[str, float],
    ) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.properties = tuple(properties)
        self.graph: GraphSpec | None = graph
        self.elements = elements
        self._minima = dict(minima)
        self._table = element_table.t().contiguous()

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        """Predict all properties of a batch, (C,) each, in the dtype of the weights."""
        if graph is None:
            raise ValueError(f"predictor {self.name} needs a graph of its specification, got none")
        dtype = self._table.dtype
        vectors = edge_vectors(crystals.frac_coords, crystals.lattice, graph.neighbors).to(dtype)
        features = linear(crystals.composition.to(dtype), self._table)
        columns = self._outputs(features, vectors, graph, crystals.ptr).unbind(1)
        values = {p.name: column for p, column in zip(self.properties, columns, strict=True)}
        for name, minimum in self._minima.items():
            values[name] = values[name].clamp(min=minimum)
        return values

    @abstractmethod
    def _outputs(self, features: Tensor, vectors: Tensor, graph: Graph, ptr: Tensor) -> Tensor:
        """Outputs (C, P) from features of the atoms (S, F) and vectors of the edges (E, 3)."""

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move the weights to a device or floating-point type and return the predictor."""
        self.network.to(device=device, dtype=dtype)
        self._table = self._table.to(device=device, dtype=dtype)
        return self
