"""Matrix products of the networks' sizes beside torch's own and those of oneDNN, on the CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from peers import Peer, Peers
from race import Place
from smoacs.ops import matrix_product

SUITE = "matrix products, float32"
MKL, ONEDNN = "torch", "oneDNN"
SIZES = {  # (m, k) by (k, n); the first matrix by columns
    "bond pairs: 18,694 x 128 by 128 x 128": (18_694, 128, 128, False),
    "atoms: 1,280 x 256 by 256 x 256": (1280, 256, 256, False),
    "a weight's gradient: 128 x 18,694 by 18,694 x 128": (128, 18_694, 128, True),
}
ONE_THREAD = Place("cpu", 1)


def operands(name: str) -> tuple[Tensor, Tensor]:
    m, k, n, by_columns = SIZES[name]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(k, m, generator=generator).t() if by_columns else torch.randn(m, k)
    return a, torch.randn(n, k, generator=generator).t()


def onednn(a: Tensor, b: Tensor) -> Tensor:
    """The product with the weights in oneDNN's own order, brought there at each call."""
    weight = torch.ops.mkldnn._reorder_linear_weight(b.t().contiguous())
    return torch.ops.mkldnn._linear_pointwise(a.contiguous(), weight, None, "none", [], "")


@pytest.mark.guard
@pytest.mark.parametrize("name", SIZES)
def test_products(compare: Any, name: str) -> None:
    a, b = operands(name)
    ours = partial(matrix_product, a, b)
    others = {MKL: Peer(lambda: a @ b)}
    if torch.backends.mkldnn.is_available() and not compare.check:
        others[ONEDNN] = Peer(partial(onednn, a, b))
    for peer in others.values():
        torch.testing.assert_close(ours(), peer.run(), rtol=0, atol=2e-5 * a.shape[1] ** 0.5)
    with ONE_THREAD.entered():
        compare(
            SUITE,
            name,
            ONE_THREAD,
            ours,
            Peers(others),
            size=(a.shape[0], "rows"),
            reference=MKL,
        )


@pytest.mark.parametrize("name", SIZES)
def test_threads(compare: Any, all_threads: Place, name: str) -> None:
    a, b = operands(name)
    ours = partial(matrix_product, a, b)
    compare.scaling(SUITE, name, all_threads, ours, size=(a.shape[0], "rows"))
