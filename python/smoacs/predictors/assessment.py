"""Predictions together with how far they can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.predictors.base import Graph, GraphSpec, Predictor

if TYPE_CHECKING:
    import pandas as pd

NOT_PREDICTED = "not predicted"
"""What ``outside`` says of a crystal that no predictor was asked about."""


@dataclass(frozen=True)
class Assessment:
    """Properties of C crystals, their expected errors, and who is outside of the training domain.

    Attributes
    ----------
    values : mapping from property to Tensor (C,)
        What ``predict`` gives.
    errors : mapping from property to Tensor (C,)
        Expected error (standard deviation) in the property's unit, where the predictor knows one.
    outside : mapping from reason to Tensor (C,), bool
        Crystals that the training data does not speak for, by reason; empty where the predictor
        cannot tell.
    """

    values: Mapping[str, Tensor]
    errors: Mapping[str, Tensor]
    outside: Mapping[str, Tensor]


@runtime_checkable
class Assessor(Protocol):
    """A predictor that also says how far it trusts itself."""

    def assess(self, crystals: CrystalBatch, graph: Graph | None) -> Assessment:
        """Predict all properties of a batch of discrete crystals and assess the predictions."""
        ...


def assess(
    predictors: Sequence[Predictor], crystals: CrystalBatch, graphs: Mapping[GraphSpec, Graph]
) -> Assessment:
    """Predictions of several predictors with distinct properties.

    A crystal is outside for a reason if it is for any predictor. No gradient flows.
    """
    values: dict[str, Tensor] = {}
    errors: dict[str, Tensor] = {}
    outside: dict[str, Tensor] = {}
    for predictor in predictors:
        graph = graphs[predictor.graph] if predictor.graph else None
        part = assess_one(predictor, crystals, graph)
        values |= part.values
        errors |= part.errors
        for reason, crystals_outside in part.outside.items():
            outside[reason] = crystals_outside | outside.get(reason, crystals_outside)
    return Assessment(values, errors, outside)


def tabulate(
    parts: Sequence[tuple[Tensor, Assessment]], count: int, properties: Sequence[str]
) -> pd.DataFrame:
    """Assessments as a table.

    Parameters
    ----------
    parts : sequence of (Tensor (C,), Assessment)
        Numbers of the crystals, and what was found for them.
    count : int
        Number of all crystals; those in no part were not predicted.
    properties : sequence of str

    Returns
    -------
    DataFrame with ``count`` rows
        A column for each property, nan where it was not predicted; where the predictors know their
        limits also ``PROPERTY_std``, the expected error; ``in_domain``, whether the training data
        speak for the crystal; and ``outside``, the reasons why not.
    """
    import pandas as pd

    if not parts:
        return pd.DataFrame(np.nan, index=range(count), columns=list(properties))
    rows = torch.cat([members for members, _ in parts]).tolist()
    table = pd.concat([_table(assessment, properties) for _, assessment in parts])
    table = table.set_axis(rows).reindex(range(count))
    if "outside" in table:
        table["in_domain"] = table["in_domain"].eq(True)
        table["outside"] = table["outside"].fillna(NOT_PREDICTED)
    return table


def _table(assessment: Assessment, properties: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    columns = {name: assessment.values[name] for name in properties}
    columns |= {f"{p}_std": assessment.errors[p] for p in properties if p in assessment.errors}
    table = pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    if assessment.outside:
        reasons = pd.DataFrame({k: v.cpu().numpy() for k, v in assessment.outside.items()})
        table["in_domain"] = ~reasons.any(axis=1)
        table["outside"] = ["; ".join(reasons.columns[row]) for row in reasons.to_numpy()]
    return table


@torch.no_grad()
def assess_one(predictor: Predictor, crystals: CrystalBatch, graph: Graph | None) -> Assessment:
    """Predictions of one predictor, with all that it knows of their reliability."""
    if isinstance(predictor, Assessor):
        return predictor.assess(crystals, graph)
    return Assessment(predictor.predict(crystals, graph), {}, {})
