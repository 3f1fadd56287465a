"""Feature vectors of the elements that graph networks start from."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import torch
from torch import Tensor


@cache
def cgcnn_table() -> Tensor:
    """The 92 bits that describe each element in CGCNN and ALIGNN, (98, 92) float32.

    Row ``z`` belongs to atomic number ``z + 1``, as the columns of a composition do, so
    ``composition @ cgcnn_table()`` gives the features of soft atoms.

    References
    ----------
    Xie, Grossman, Phys. Rev. Lett. 120, 145301 (2018), supplementary table.
    """
    text = (resources.files("smoacs.predictors") / "data" / "cgcnn_elements.json").read_text()
    data = json.loads(text)
    table = torch.zeros(len(data["ones"]), data["width"])
    for row, ones in zip(table, data["ones"], strict=True):
        row[ones] = 1.0
    return table
