"""Noisy copies of candidates beside the same in eager torch, whose noise depends on the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import machine
from peers import Peer, Peers
from race import Place
from smoacs.ops import resample

SUITE = "resampling"
EAGER = "torch, eager"
BRIEF = "256 x 5 rows of 3"
SIZES = {  # crystals, rows of each, columns
    BRIEF: (256, 5, 3),
    "32 x 135 rows of 3": (32, 135, 3),
    "4,096 x 5 rows of 98": (4096, 5, 98),
}


# The brief one is mostly calls, ours and torch's: 1.0 to 1.7 times as fast without a change.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == BRIEF else pytest.mark.guard) for n in SIZES]
)
def test_resample(compare: Any, place: Place, name: str) -> None:
    n_crystals, n_rows, width = SIZES[name]
    device = place.device
    values = torch.rand(n_crystals * n_rows, width, device=device)
    ptr = torch.arange(n_crystals + 1, device=device) * n_rows
    identity = torch.arange(n_crystals, device=device)
    parents = torch.where(identity % 3 == 0, identity, identity // 2)
    rows = parents.repeat_interleave(n_rows) * n_rows + torch.arange(
        n_crystals * n_rows, device=device
    ).remainder(n_rows)
    kept = (parents == identity).repeat_interleave(n_rows)[:, None]

    def eager() -> torch.Tensor:
        copies = values[rows]
        return torch.where(kept, values, copies + 5e-5 * torch.randn_like(copies))

    ours = lambda: resample(values, ptr, parents, identity, 5e-5, 0, 7, 1)  # noqa: E731
    assert torch.allclose(ours(), eager(), atol=1e-3)
    compare(
        SUITE,
        name,
        place,
        ours,
        Peers({EAGER: Peer(eager)}),
        size=(values.numel(), "numbers"),
        floor=("values read and written", machine.copy(2 * values.nbytes, device)),
        reference=EAGER,
    )
