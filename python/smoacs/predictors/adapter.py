"""Predictors made of torch models that know nothing of smoacs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from smoacs.crystals import N_ELEMENTS, CrystalBatch
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.layers import linear


class ModulePredictor:
    """A torch module that judges one crystal at a time.

    The module is called as ``module(positions, cell, composition)`` and returns one number per
    property:

    - positions (n, 3): Cartesian coordinates in Å, inside the cell,
    - cell (3, 3): lattice vectors in Å, one per row,
    - composition (n, 98): distribution over the elements Z = 1..98 of each site.

    For a module that takes atomic numbers in place of the composition see :class:`SoftElements`.

    Parameters
    ----------
    name : str
    module : nn.Module
        Gets frozen, in evaluation mode.
    properties : sequence of Property
        What the numbers are, in their order.
    elements : collection of int
        Atomic numbers that the model knows.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        properties: Sequence[Property],
        elements: Collection[int],
    ) -> None:
        self.name = name
        self.network = module.eval().requires_grad_(False)
        self.properties = tuple(properties)
        self.elements = frozenset(elements)
        self.graph: GraphSpec | None = None

    def predict(self, crystals: CrystalBatch, graph: Graph | None = None) -> Mapping[str, Tensor]:
        """Predict all properties of a batch, (C,) each, in the dtype of the module."""
        crystals = crystals.to(dtype=self._dtype(crystals))
        inside = crystals.frac_coords - crystals.frac_coords.detach().floor()
        positions = replace(crystals, frac_coords=inside).cart_coords
        rows = [
            self._judge(positions[start:stop], cell, crystals.composition[start:stop])
            for (start, stop), cell in zip(
                pairwise(crystals.ptr.tolist()), crystals.lattice, strict=True
            )
        ]
        columns = torch.stack(rows).unbind(1)
        return {p.name: column for p, column in zip(self.properties, columns, strict=True)}

    def _judge(self, positions: Tensor, cell: Tensor, composition: Tensor) -> Tensor:
        numbers = self.network(positions, cell, composition).reshape(-1)
        if numbers.numel() != len(self.properties):
            raise ValueError(
                f"the module of {self.name} gave {numbers.numel()} numbers for a crystal; it has "
                f"{len(self.properties)} properties"
            )
        return numbers

    def _dtype(self, crystals: CrystalBatch) -> torch.dtype:
        weight = next(self.network.parameters(), crystals.lattice)
        return weight.dtype

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move the module to a device or floating-point type and return the predictor."""
        self.network.to(device=device, dtype=dtype)
        return self


class SoftElements(nn.Module):
    """A model of atomic numbers that takes distributions over elements instead.

    The model is called with the most probable elements, but its embedding gives the mixture of
    the rows of all elements, so that the result is differentiable in the composition and, for
    distributions that are certain, the model's own.

    Parameters
    ----------
    model : nn.Module
        Called as ``model(positions, cell, atomic_numbers)``.
    embedding : nn.Embedding
        The part of the model that turns elements into vectors. Whatever else the model does with
        atomic numbers has no gradient.
    first : int
        Atomic number of the first row of the embedding.

    Raises
    ------
    TypeError
        If the embedding is none: elements that enter a model otherwise cannot be mixed.
    """

    def __init__(self, model: nn.Module, embedding: nn.Embedding, *, first: int = 0) -> None:
        super().__init__()
        _check_embedding(embedding)
        self.model = model
        self._embedding = [embedding]  # known to the model already, not to be listed twice
        self._first = first

    def forward(self, positions: Tensor, cell: Tensor, composition: Tensor) -> Tensor:
        """What the model gives for a mixture of elements on each site."""
        atomic_numbers = composition.argmax(dim=1) + 1
        with mixed_elements(self._embedding[0], composition, first=self._first):
            return self.model(positions, cell, atomic_numbers)


@contextmanager
def mixed_elements(
    embedding: nn.Embedding, composition: Tensor, *, first: int = 0
) -> Iterator[None]:
    """Inside, an embedding gives mixtures of its rows whatever rows it is asked for.

    Parameters
    ----------
    embedding : nn.Embedding
    composition : Tensor (S, 98), float
        Distribution over the elements Z = 1..98 of the sites that the embedding is asked for.
        Elements without a row add nothing.
    first : int
        Atomic number of the first row: 1 if H has row 0, 0 if it has row 1.
    """
    _check_embedding(embedding)
    table = embedding.weight.new_zeros(N_ELEMENTS, embedding.weight.shape[1])
    rows = embedding.weight[max(0, 1 - first) :][: N_ELEMENTS + 1 - max(1, first)]
    table[max(1, first) - 1 :][: len(rows)] = rows
    mixture = linear(composition, table.t().contiguous())
    handle = embedding.register_forward_hook(lambda *_: mixture)
    try:
        yield
    finally:
        handle.remove()


def _check_embedding(embedding: nn.Module) -> None:
    if not isinstance(embedding, nn.Embedding):
        raise TypeError(
            f"mixtures of elements need an nn.Embedding of elements, got {type(embedding).__name__}"
        )
