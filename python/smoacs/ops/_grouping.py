"""Sorting of rows by the group they belong to."""

from __future__ import annotations

import torch
from torch import Tensor

from smoacs.ops._native import addresses, kernels


def grouped(group: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Rows in ascending order of their group, and where each group starts.

    Parameters
    ----------
    group : Tensor (N,), int64
    n_groups : int

    Returns
    -------
    rows : Tensor (N,), int64
        Rows of one group stay in order; those of none, with the number ``n_groups``, come last.
    start : Tensor (n_groups + 1,), int64

    Raises
    ------
    ValueError
        If a group is not one of 0 ... n_groups (on a GPU such rows come last, too).
    """
    if not group.is_cpu:
        ordered, rows = torch.sort(group.where(group >= 0, n_groups), stable=True)
        return rows, torch.searchsorted(ordered, torch.arange(n_groups + 1, device=group.device))
    rows, start = torch.empty_like(group), group.new_empty(n_groups + 1)
    kernels().group_rows(
        n_rows=len(group), n_groups=n_groups, **addresses(group=group, rows=rows, start=start)
    )
    return rows, start
