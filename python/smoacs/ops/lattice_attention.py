"""Attention of atoms to the periodic images of atoms, summed over the images, on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from smoacs.ops._native import addresses, check_tensor, kernels, launch
from smoacs.ops._operator import operator

_FLOATS = (torch.float32, torch.float64)
_CPU = torch.device("cpu")


class TermOwners(NamedTuple):
    """Which of T terms and P pairs belong to each of S atoms.

    Attributes
    ----------
    first_term, term_count : Tensor (S,), int64
        The terms of an atom follow each other; there is one at least.
    first_pair, pair_count : Tensor (S,), int64
        So do its pairs with the atoms that the terms are images of.
    pair : Tensor (T,), int64
        Pair of each term; whatever it is where no atom owns the term.
    """

    first_term: Tensor
    term_count: Tensor
    first_pair: Tensor
    pair_count: Tensor
    pair: Tensor


def lattice_attention(
    pair_logits: Tensor,
    decay: Tensor,
    lengths: Tensor,
    squares: Tensor,
    owners: TermOwners,
    centers: Tensor,
    width: float,
    reach: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax over an atom's terms, summed over the terms of each pair.

    The weight of a term is ``exp(pair_logits + decay * squares)``, normalised for each atom and
    head. Results of an atom do not depend on the others. There is no second derivative.

    Parameters
    ----------
    pair_logits : Tensor (P, H), float32 or float64, on the CPU
        Of H heads.
    decay : Tensor (S, H), same dtype
        Negative.
    lengths, squares : Tensor (T,), same dtype
        Lengths must not be negative.
    owners : TermOwners
    centers : Tensor (K,), same dtype
        Of Gaussian functions of the length, ascending by even steps; constants.
    width : float
        Their standard deviation.
    reach : Tensor (T,), same dtype, optional
        Only heads whose standard deviation, ``sqrt(-0.5 / decay)``, is larger see the term.

    Returns
    -------
    weights : Tensor (P, H)
        Sums of the weights.
    radial : Tensor (S, H, K)
        Weighted means of the functions.

    Raises
    ------
    ValueError
        If a shape or a device does not fit, or an atom's terms or pairs are not there.
    TypeError
        If a dtype does not.
    """
    check_tensor("pair_logits", pair_logits, (None, None), _FLOATS, _CPU)
    n_atoms, n_terms, dtype = len(owners.first_term), len(owners.pair), pair_logits.dtype
    check_tensor("decay", decay, (n_atoms, pair_logits.shape[1]), dtype, _CPU)
    for name, values in (("lengths", lengths), ("squares", squares), ("reach", reach)):
        if values is not None:
            check_tensor(name, values, (n_terms,), dtype, _CPU)
    check_tensor("centers", centers, (None,), dtype, _CPU)
    for name, index in owners._asdict().items():
        size = n_terms if name == "pair" else n_atoms
        check_tensor(name, index, (size,), torch.int64, _CPU)
    weights, radial, _ = _lattice_attention(
        pair_logits.contiguous(),
        decay.contiguous(),
        lengths.contiguous(),
        squares.contiguous(),
        [index.contiguous() for index in owners],
        centers.contiguous(),
        width,
        None if reach is None else reach.contiguous(),
    )
    return weights, radial


def _sum(
    pair_logits: Tensor,
    decay: Tensor,
    lengths: Tensor,
    squares: Tensor,
    owners: list[Tensor],
    centers: Tensor,
    width: float,
    reach: Tensor | None,
) -> Any:
    """Terms and what the attention to them depends on, as the kernels take them."""
    return kernels().LatticeSum(
        n_atoms=len(decay),
        n_terms=len(lengths),
        n_pairs=len(pair_logits),
        n_heads=decay.shape[1],
        n_functions=len(centers),
        width=width,
        **addresses(
            **TermOwners(*owners)._asdict(),
            lengths=lengths,
            squares=squares,
            reach=reach,
            pair_logits=pair_logits,
            decay=decay,
            centers=centers,
        ),
    )


def _results(
    pair_logits: Tensor, decay: Tensor, _l: Tensor, _s: Tensor, _o: Any, centers: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    radial = decay.new_empty(*decay.shape, centers.shape[0])
    return torch.empty_like(pair_logits), radial, torch.empty_like(decay)


def _gradients(
    _w: Tensor, _r: Tensor, _k: Any, pair_logits: Tensor, decay: Tensor, lengths: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(pair_logits),
        torch.empty_like(decay),
        torch.zeros_like(lengths),
        torch.zeros_like(lengths),
    )


@operator("lattice_attention_backward", fake=_gradients)
def _lattice_attention_backward(
    grad_weights: Tensor,
    grad_radial: Tensor,
    kept: list[Tensor],
    pair_logits: Tensor,
    decay: Tensor,
    lengths: Tensor,
    squares: Tensor,
    owners: list[Tensor],
    centers: Tensor,
    width: float,
    reach: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = (pair_logits, decay, lengths, squares, owners, centers, width, reach)
    weights, radial, level = kept
    grads = _gradients(grad_weights, grad_radial, kept, *inputs)
    grad_logits, grad_decay, grad_lengths, grad_squares = grads
    launch(
        "lattice_attention_backward",
        decay,
        _sum(*inputs),
        weights=weights,
        radial=radial,
        level=level,
        grad_weights=grad_weights,
        grad_radial=grad_radial,
        grad_logits=grad_logits,
        grad_decay=grad_decay,
        grad_lengths=grad_lengths,
        grad_squares=grad_squares,
    )
    return grads


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *floats, owners, centers, ctx.width, reach = inputs
    ctx.save_for_backward(*output, *floats, *owners, centers, reach)


def _differentiate(
    ctx: Any, grad_weights: Tensor, grad_radial: Tensor, _: Tensor
) -> tuple[Any, ...]:
    kept, floats, owners = (list(ctx.saved_tensors[i:j]) for i, j in ((0, 3), (3, 7), (7, 12)))
    centers, reach = ctx.saved_tensors[12:]
    inputs = (*floats, owners, centers, ctx.width, reach)
    grads = _lattice_attention_backward(
        grad_weights.contiguous(), grad_radial.contiguous(), kept, *inputs
    )
    return *grads, [None] * len(owners), None, None, None


@operator("lattice_attention", fake=_results, backward=_differentiate, setup_context=_save)
def _lattice_attention(
    pair_logits: Tensor,
    decay: Tensor,
    lengths: Tensor,
    squares: Tensor,
    owners: list[Tensor],
    centers: Tensor,
    width: float,
    reach: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (pair_logits, decay, lengths, squares, owners, centers, width, reach)
    weights, radial, level = _results(*inputs)
    launch("lattice_attention", decay, _sum(*inputs), weights=weights, radial=radial, level=level)
    return weights, radial, level
