"""Some properties of a predictor, perhaps under other names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.predictors.assessment import Assessment, assess_one
from smoacs.predictors.base import Graph, Predictor


class Selected:
    """A predictor that gives some properties of another.

    Parameters
    ----------
    predictor : Predictor
    names : mapping of str to str
        Properties to keep, and the names to give them.

    Raises
    ------
    ValueError
        If the predictor lacks a property.
    """

    def __init__(self, predictor: Predictor, names: Mapping[str, str]) -> None:
        given = {p.name: p for p in predictor.properties}
        for name in names:
            if name not in given:
                raise ValueError(
                    f"{predictor.name} does not give {name!r}; it gives {', '.join(given)}"
                )
        self.predictor = predictor
        self.names = dict(names)
        self.name = predictor.name
        self.properties = tuple(
            dataclasses.replace(given[old], name=new) for old, new in names.items()
        )
        self.graph = predictor.graph
        self.elements = predictor.elements

    @property
    def network(self) -> Any:
        """What holds the weights."""
        return getattr(self.predictor, "network", self.predictor)

    def to(self, device: str) -> Selected:
        """The same on a device."""
        return Selected(self.predictor.to(device), self.names)

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> dict[str, Tensor]:
        """Predict the selected properties of a batch."""
        return self._renamed(self.predictor.predict(crystals, graph))

    def assess(self, crystals: CrystalBatch, graph: Graph | None) -> Assessment:
        """Predict and assess the selected properties of a batch of discrete crystals."""
        found = assess_one(self.predictor, crystals, graph)
        return Assessment(self._renamed(found.values), self._renamed(found.errors), found.outside)

    def _renamed(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {new: columns[old] for old, new in self.names.items() if old in columns}


def seen_by(predictor: str, name: str) -> str:
    """Name of a property, or of an objective, as a further predictor of it sees it."""
    return f"{name}@{predictor}"


def distinct_properties(predictors: Sequence[Predictor]) -> list[Predictor]:
    """The same predictors, none of which gives a property that another gives.

    Parameters
    ----------
    predictors : sequence of Predictor

    Returns
    -------
    list of Predictor
        The first that gives a property keeps its name; from others it is ``PROPERTY@PREDICTOR``.

    Raises
    ------
    ValueError
        If a predictor is there twice.
    """
    taken: set[str] = set()
    distinct = []
    for predictor in predictors:
        full = {p.name: seen_by(predictor.name, p.name) for p in predictor.properties}
        if taken.intersection(full.values()):
            raise ValueError(f"predictor {predictor.name} is there twice; name each model once")
        names = {name: full[name] if name in taken else name for name in full}
        taken.update(names, full.values())
        same = all(old == new for old, new in names.items())
        distinct.append(predictor if same else Selected(predictor, names))
    return distinct
