"""Candidates that are about to become discrete choose compositions that nobody holds yet."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from smoacs.templates import DesignSpace
from smoacs.variables import Variables

_ATTEMPTS = 16


def compositions(composition: Tensor, space: DesignSpace) -> list[tuple[int, bytes]]:
    """Template and element counts of each candidate: equal for equal compositions.

    Parameters
    ----------
    composition : Tensor (S, 98)
        One-hot.
    space : DesignSpace
    """
    counts = torch.zeros(len(space), composition.shape[1], device=composition.device)
    owner = space.candidate_of_site.to(composition.device)
    counts.index_add_(0, owner, composition.to(counts.dtype))
    rows = counts.to(torch.int32).cpu().numpy()
    return [(t, row.tobytes()) for t, row in zip(space.template.tolist(), rows, strict=True)]


def distinct_logits(
    variables: Variables, space: DesignSpace, active: Tensor, taken: Collection[tuple[int, bytes]]
) -> Tensor:
    """Element logits under which active candidates have compositions of their own, where possible.

    A candidate whose composition is taken, or is that of a candidate before it, gives up the most
    probable element of its least decided site, up to 16 times.

    Parameters
    ----------
    variables : Variables
    space : DesignSpace
    active : Tensor (C,), bool
        Candidates that choose; the others keep their logits.
    taken : collection
        Compositions that nobody may choose, as :func:`compositions` gives them.

    Returns
    -------
    Tensor (S, 98)
    """
    # Many small decisions, one after the other: the host's work.
    logits = variables.element_logits.detach().cpu().clone()
    allowed = space.allowed_under(variables.pattern_logits.argmax(1)).cpu()
    bounds = space.ptr.tolist()
    candidates = torch.nonzero(active).flatten().tolist()
    for _ in range(_ATTEMPTS):
        masked = logits.masked_fill(~allowed, float("-inf"))
        choice = torch.zeros_like(logits).scatter_(1, masked.argmax(1, keepdim=True), 1.0)
        keys = compositions(choice, space)
        held = set(taken)
        repeated = []
        for candidate in candidates:
            if keys[candidate] in held:
                repeated.append(candidate)
            held.add(keys[candidate])
        if not repeated:
            break
        first, second = masked.topk(2, dim=1).values.unbind(1)
        margin = first - second  # infinite where only one element is allowed
        lowest = logits.masked_fill(~allowed, float("inf")).amin(1)
        for candidate in repeated:
            site = bounds[candidate] + int(
                margin[bounds[candidate] : bounds[candidate + 1]].argmin()
            )
            if torch.isfinite(margin[site]):
                logits[site, masked[site].argmax()] = lowest[site] - 1
    return logits.to(space.device)
