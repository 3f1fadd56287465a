"""Properties of given crystals."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from smoacs.chemistry.elements import symbol
from smoacs.crystals import N_ELEMENTS, CrystalBatch
from smoacs.predictors.assessment import assess, tabulate
from smoacs.predictors.base import Graph, Predictor
from smoacs.predictors.registry import load

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from pymatgen.core.structure import Structure


def predict(
    structures: Sequence[Structure] | Sequence[Atoms],
    predictor: str | Predictor,
    *,
    batch_size: int = 64,
    device: str = "cpu",
) -> pd.DataFrame:
    """Predict the properties of crystals, in batches.

    Parameters
    ----------
    structures : sequence of pymatgen Structures or of ASE Atoms
    predictor : str or Predictor
        A name for :func:`smoacs.predictors.load`, or a predictor.
    batch_size : int
        Crystals per call of the predictor; the result does not depend on it.
    device : str
        Where to compute.

    Returns
    -------
    DataFrame
        One row per structure in the given order, one column per property in its unit. A predictor
        that knows its limits adds columns ``PROPERTY_std``, the expected error; ``in_domain``,
        whether its training data speak for the crystal; and ``outside``, why not. A row is NaN,
        with a warning, if the crystal holds an element that the predictor does not know.

    Raises
    ------
    ValueError
        If there is no structure, a structure cannot be described, or the batch size is not
        positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    model = load(predictor) if isinstance(predictor, str) else predictor
    model = model.to(device)
    crystals = _crystals(structures)
    parts = []
    for members in _known(crystals, model).split(batch_size):
        batch = crystals.select(members).to(device)
        graphs = {model.graph: Graph.build(batch, model.graph)} if model.graph else {}
        parts.append((members, assess([model], batch, graphs)))
    return tabulate(parts, len(crystals), [p.name for p in model.properties])


def _crystals(structures: Sequence[Structure] | Sequence[Atoms]) -> CrystalBatch:
    if len(structures) > 0 and hasattr(structures[0], "get_scaled_positions"):
        return CrystalBatch.from_ase(cast("Sequence[Atoms]", structures))
    return CrystalBatch.from_structures(cast("Sequence[Structure]", structures))


def _known(crystals: CrystalBatch, predictor: Predictor) -> Tensor:
    """Numbers of the crystals whose elements the predictor knows; warns of the others."""
    foreign = torch.tensor([z not in predictor.elements for z in range(1, N_ELEMENTS + 1)])
    site, column = torch.nonzero(crystals.composition * foreign, as_tuple=True)
    if len(site) == 0:
        return torch.arange(len(crystals))
    unknown = crystals.crystal_index[site].unique()
    symbols = ", ".join(symbol(int(z)) for z in (column + 1).unique())
    warnings.warn(
        f"{predictor.name} does not know {symbols}: no prediction for {len(unknown)} of "
        f"{len(crystals)} structures, the first is number {int(unknown[0])}",
        stacklevel=3,
    )
    known = torch.ones(len(crystals), dtype=torch.bool)
    known[unknown] = False
    return torch.nonzero(known).flatten()
