"""A frozen torch network behind the predictor protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from smoacs.chemistry.elements import atomic_number
from smoacs.crystals import CrystalBatch
from smoacs.ops import edge_vectors
from smoacs.predictors.assessment import Assessment
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.last_layer import inputs_of
from smoacs.predictors.layers import linear
from smoacs.predictors.reliability import Reliability, split_state
from smoacs.predictors.weights import ModelCard, load_strictly


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

    reliability: Reliability | None = None
    """Set where the weights come with it; the network's ``readout`` is then its last layer."""

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
        columns = self._outputs(features, vectors, graph, crystals).unbind(1)
        values = {p.name: column for p, column in zip(self.properties, columns, strict=True)}
        for name, minimum in self._minima.items():
            values[name] = values[name].clamp(min=minimum)
        return values

    def assess(self, crystals: CrystalBatch, graph: Graph | None) -> Assessment:
        """Predict all properties of a batch of discrete crystals and assess the predictions."""
        if self.reliability is None or graph is None:
            return Assessment(self.predict(crystals, graph), {}, {})
        with inputs_of(cast("nn.Module", self.network.readout)) as seen:
            values = self.predict(crystals, graph)
        (features,) = seen
        return self.reliability.assess(values, features, crystals, graph.neighbors)

    @abstractmethod
    def _outputs(
        self, features: Tensor, vectors: Tensor, graph: Graph, crystals: CrystalBatch
    ) -> Tensor:
        """Outputs (C, P) from features of the atoms (S, F) and vectors of the edges (E, 3)."""

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move the weights to a device or floating-point type and return the predictor."""
        self.network.to(device=device, dtype=dtype)
        self._table = self._table.to(device=device, dtype=dtype)
        if self.reliability is not None:
            self.reliability.errors.to(device=device, dtype=dtype)
        return self


class BundledPredictor(NetworkPredictor):
    """Predictor of a family whose models come in smoacs's own format, weights and card.

    Its constructor takes the arguments of :class:`NetworkPredictor` but the element table.
    """

    kind: ClassVar[str]
    """Name of the family in model cards."""

    @classmethod
    def from_bundle(cls, card: ModelCard, state: Mapping[str, Tensor]) -> Self:
        """Predictor from the card and the tensors of a model of this family.

        Raises
        ------
        ValueError
            If the card describes no network of this family, or the weights are of another.
        """
        arguments = {key: value for key, value in card.architecture.items() if key != "kind"}
        try:
            network = cls._build(arguments)
        except (TypeError, KeyError) as error:
            raise ValueError(f"the card of {card.name} describes no {cls.kind}: {error}") from error
        state, reliability = split_state(state, card.domain)
        load_strictly(network, state, f"{card.name}.safetensors")
        predictor = cls(  # type: ignore[call-arg]
            card.name,
            network,
            properties=[Property(p.name, p.unit, p.low, p.high) for p in card.properties],
            graph=card.graph,
            elements=frozenset(atomic_number(symbol) for symbol in card.elements),
            minima={p.name: p.minimum for p in card.properties if p.minimum is not None},
        )
        predictor.reliability = reliability
        return predictor

    @classmethod
    @abstractmethod
    def _build(cls, arguments: dict[str, Any]) -> nn.Module:
        """Network from what a card says of its architecture."""
