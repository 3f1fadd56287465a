"""Properties of given crystals."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from smoacs.chemistry.elements import symbol
from smoacs.crystals import N_ELEMENTS, CrystalBatch
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
        One row per structure in the given order, one column per property in its unit. A row is
        NaN, with a warning, if the crystal holds an element that the predictor does not know.

    Raises
    ------
    ValueError
        If there is no structure, a structure cannot be described, or the batch size is not
        positive.
    """
    import pandas as pd

    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    model = load(predictor) if isinstance(predictor, str) else predictor
    model = model.to(device)
    crystals = _crystals(structures)
    columns = {p.name: torch.full((len(crystals),), torch.nan) for p in model.properties}
    for members in _known(crystals, model).split(batch_size):
        with torch.no_grad():
            batch = crystals.select(members).to(device)
            values = model.predict(batch, Graph.build(batch, model.graph) if model.graph else None)
        for name, column in columns.items():
            column[members] = values[name].to("cpu", column.dtype)
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


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
