"""Where several predictors give a property, each of them must find its target met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from smoacs.objectives import Design, Objective
from smoacs.predictors.base import Predictor
from smoacs.predictors.selected import seen_by


@dataclass(frozen=True)
class Opinion:
    """An objective, judged by a predictor that is not the first to give its properties.

    Attributes
    ----------
    objective : Objective
    predictor : str
        Name of the predictor; its properties are ``PROPERTY@PREDICTOR``.
    given : tuple of str
        Properties of the objective that it gives under such names.
    """

    objective: Objective
    predictor: str
    given: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the objective, ``@`` and the predictor's."""
        return seen_by(self.predictor, self.objective.name)

    @property
    def properties(self) -> tuple[str, ...]:
        """Properties of the objective, the given ones by their names here."""
        return tuple(self._here(name) for name in self.objective.properties)

    @property
    def target(self) -> float | None:
        """The wanted value of a window."""
        return getattr(self.objective, "target", None)

    def value(self, design: Design) -> Tensor:
        """The objective's value of what the predictor gives, (C,)."""
        seen = {name: design.properties[self._here(name)] for name in self.objective.properties}
        return self.objective.value(replace(design, properties={**design.properties, **seen}))

    def loss(self, value: Tensor) -> Tensor:
        """The objective's loss, (C,)."""
        return self.objective.loss(value)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether the objective is met, (C,) bool."""
        return self.objective.satisfied(value)

    def _here(self, name: str) -> str:
        return seen_by(self.predictor, name) if name in self.given else name


def with_opinions(
    objectives: Sequence[Objective], predictors: Sequence[Predictor]
) -> list[Objective]:
    """Objectives, each followed by the opinions of further predictors of its properties.

    Parameters
    ----------
    objectives : sequence of Objective
    predictors : sequence of Predictor
        From :func:`smoacs.predictors.selected.distinct_properties`.
    """
    every: list[Objective] = []
    for objective in objectives:
        every.append(objective)
        for predictor in predictors:
            names = {p.name for p in predictor.properties}
            given = tuple(n for n in objective.properties if seen_by(predictor.name, n) in names)
            if given:
                every.append(Opinion(objective, predictor.name, given))
    return every
