"""Cosines of the angles between the bonds of pairs, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smoacs.ops._native import addresses, check_tensor, kernels, launch
from smoacs.ops._operator import operator
from smoacs.ops.gated_messages import Incidence


def pair_cosines(vectors: Tensor, pairs: Incidence) -> Tensor:
    """Cosine of the angle at the atom that the two bonds of each pair share.

    ``-(v_src . v_dst) / (|v_src| |v_dst|)``, kept within -1 and 1, in double precision. A bond's
    gradient is summed up in the order of its pairs. There is no second derivative.

    Parameters
    ----------
    vectors : Tensor (E, 3), float32 or float64
        Vectors of the bonds; the first of a pair ends where the second begins.
    pairs : Incidence
        Pairs as edges of a graph whose nodes are the bonds. Rows that are no pairs have the cosine
        0 and no gradient, and so have pairs with a bond without length.

    Returns
    -------
    Tensor (T,)

    Raises
    ------
    ValueError
        If a shape or a device does not fit.
    TypeError
        If a dtype does not.
    """
    dtypes = (torch.float32, torch.float64)
    check_tensor("vectors", vectors, (pairs.n_nodes, 3), dtypes, pairs.src.device)
    cosines, _ = _pair_cosines(vectors.contiguous(), *pairs)
    return cosines


def _ends(pairs: Incidence) -> Any:
    return kernels().EdgeEnds(
        n_nodes=pairs.n_nodes,
        n_edges=len(pairs.src),
        n_features=1,
        **addresses(**pairs._asdict()),
    )


@operator(
    "pair_cosines_backward",
    fake=lambda grad, directions, *_: grad.new_empty(directions.shape[0], 3),
)
def _pair_cosines_backward(
    grad: Tensor,
    directions: Tensor,
    src: Tensor,
    dst: Tensor,
    by_src: Tensor,
    first_out: Tensor,
    by_dst: Tensor,
    first_in: Tensor,
) -> Tensor:
    grad_vectors = grad.new_empty(directions.shape[0], 3)
    launch(
        "pair_cosines_backward",
        grad,
        _ends(Incidence(src, dst, by_src, first_out, by_dst, first_in)),
        directions=directions,
        grad=grad,
        grad_vectors=grad_vectors,
    )
    return grad_vectors


def _like_results(vectors: Tensor, src: Tensor) -> tuple[Tensor, Tensor]:
    n_bonds, n_pairs = vectors.shape[0], src.shape[0]
    return vectors.new_empty(n_pairs), vectors.new_empty(n_bonds, 4, dtype=torch.float64)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], *inputs[1:])


def _backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    return _pair_cosines_backward(grad.contiguous(), *ctx.saved_tensors), *(None,) * 6


@operator(
    "pair_cosines",
    fake=lambda vectors, src, *_: _like_results(vectors, src),
    backward=_backward,
    setup_context=_save,
)
def _pair_cosines(
    vectors: Tensor,
    src: Tensor,
    dst: Tensor,
    by_src: Tensor,
    first_out: Tensor,
    by_dst: Tensor,
    first_in: Tensor,
) -> tuple[Tensor, Tensor]:
    cosines, directions = _like_results(vectors, src)
    launch(
        "pair_cosines",
        vectors,
        _ends(Incidence(src, dst, by_src, first_out, by_dst, first_in)),
        vectors=vectors,
        directions=directions,
        cosines=cosines,
    )
    return cosines, directions
