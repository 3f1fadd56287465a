"""Attention of atoms to the periodic images of the atoms of their crystal, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from smoacs.ops._native import addresses, check_tensor, kernels, launch
from smoacs.ops._operator import operator
from smoacs.ops.matrix_product import matrix_product

_FLOATS = (torch.float32, torch.float64)
_CPU = torch.device("cpu")
_HEADS_AT_ONCE = 8


def lattice_attention(
    vectors: Tensor,
    decay: Tensor,
    added: Tensor,
    lengths: Tensor,
    squares: Tensor,
    image_of: Tensor,
    first_term: Tensor,
    ptr: Tensor,
    centers: Tensor,
    width: float,
    reach: Tensor | None = None,
) -> Tensor:
    """Mean over an atom's terms, periodic images of the atoms of its crystal, by a softmax.

    With queries q, keys k and values v, and the Gaussians g of the centers, for each head

        ``out[a] = sum over t of w[t] * (v[image_of[t]] + sum over k of g[k](lengths[t]) added[k])``

    where the weights w are the softmax over the terms of atom a of ``q[a] . k[image_of[t]] /
    sqrt(D) + decay[a] * squares[t]``. Besides the terms that are given, every atom has itself as
    one, of length and square 0. Results of a crystal do not depend on the others. There is no
    second derivative.

    Parameters
    ----------
    vectors : Tensor (S, 3, D, H), float32 or float64, on the CPU
        Queries, keys and values of H heads.
    decay : Tensor (S, H), same dtype
        Negative.
    added : Tensor (K, D, H), same dtype
    lengths, squares : Tensor (T,), same dtype
        Lengths must not be negative.
    image_of : Tensor (T,), int64
        Atom that each term is an image of, one of the same crystal.
    first_term : Tensor (S + 1,), int64
        Offsets of the atoms' terms.
    ptr : Tensor (C + 1,), int64
        Offsets of the crystals' atoms.
    centers : Tensor (K,), same dtype
        Of Gaussian functions of the length, ascending by even steps; constants.
    width : float
        Their standard deviation.
    reach : Tensor (T,), same dtype, optional
        Only heads whose standard deviation, ``sqrt(-0.5 / decay)``, is larger see the term.

    Returns
    -------
    Tensor (S, D, H)

    Raises
    ------
    ValueError
        If a shape or a device does not fit, offsets do not ascend, or a term is no image of an atom
        of its crystal.
    TypeError
        If a dtype does not.
    """
    check_tensor("vectors", vectors, (None, 3, None, None), _FLOATS, _CPU)
    (n_atoms, _, head_width, heads), dtype = vectors.shape, vectors.dtype
    n_terms, n_functions = image_of.numel(), centers.numel()
    check_tensor("decay", decay, (n_atoms, heads), dtype, _CPU)
    check_tensor("added", added, (n_functions, head_width, heads), dtype, _CPU)
    for name, values in (("lengths", lengths), ("squares", squares), ("reach", reach)):
        if values is not None:
            check_tensor(name, values, (n_terms,), dtype, _CPU)
    check_tensor("image_of", image_of, (n_terms,), torch.int64, _CPU)
    check_tensor("first_term", first_term, (n_atoms + 1,), torch.int64, _CPU)
    check_tensor("ptr", ptr, (None,), torch.int64, _CPU)
    check_tensor("centers", centers, (n_functions,), dtype, _CPU)
    spare = -heads % _HEADS_AT_ONCE
    if spare:
        vectors, added = pad(vectors, (0, spare)), pad(added, (0, spare))
        decay = pad(decay, (0, spare), value=-1.0)
    out, _, _ = _lattice_attention(
        vectors.contiguous(),
        decay.contiguous(),
        added.contiguous(),
        lengths.contiguous(),
        squares.contiguous(),
        image_of.contiguous(),
        first_term.contiguous(),
        ptr.contiguous(),
        centers.contiguous(),
        width,
        None if reach is None else reach.contiguous(),
        added.requires_grad and torch.is_grad_enabled(),
    )
    return out[..., :heads] if spare else out


def _sum(
    vectors: Tensor,
    decay: Tensor,
    added: Tensor,
    lengths: Tensor,
    squares: Tensor,
    image_of: Tensor,
    first_term: Tensor,
    ptr: Tensor,
    centers: Tensor,
    width: float,
    reach: Tensor | None,
) -> Any:
    """Terms and what the attention to them depends on, as the kernels take them."""
    n_atoms, _, head_width, n_heads = vectors.shape
    return kernels().LatticeSum(
        n_atoms=n_atoms,
        n_crystals=len(ptr) - 1,
        n_terms=len(image_of),
        n_heads=n_heads,
        head_width=head_width,
        n_functions=len(centers),
        width=width,
        **addresses(
            ptr=ptr,
            first_term=first_term,
            image_of=image_of,
            lengths=lengths,
            squares=squares,
            reach=reach,
            vectors=vectors,
            decay=decay,
            added=added,
            centers=centers,
        ),
    )


def _results(
    vectors: Tensor, decay: Tensor, added: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    (n_atoms, _, *row), keep_radial = vectors.shape, rest[-1]
    radial = (n_atoms, added.shape[0], row[1]) if keep_radial else (0,)
    return vectors.new_empty(n_atoms, *row), torch.empty_like(decay), vectors.new_empty(radial)


def _gradients(
    _g: Tensor, _o: Tensor, _l: Tensor, vectors: Tensor, decay: Tensor, _a: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lengths = rest[0]
    return (
        torch.empty_like(vectors),
        torch.empty_like(decay),
        torch.zeros_like(lengths),
        torch.zeros_like(lengths),
    )


@operator("lattice_attention_backward", fake=_gradients)
def _lattice_attention_backward(
    grad_out: Tensor,
    out: Tensor,
    level: Tensor,
    vectors: Tensor,
    decay: Tensor,
    added: Tensor,
    lengths: Tensor,
    squares: Tensor,
    image_of: Tensor,
    first_term: Tensor,
    ptr: Tensor,
    centers: Tensor,
    width: float,
    reach: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    terms = (lengths, squares, image_of, first_term, ptr, centers, width, reach)
    grads = _gradients(grad_out, out, level, vectors, decay, added, *terms)
    grad_vectors, grad_decay, grad_lengths, grad_squares = grads
    launch(
        "lattice_attention_backward",
        decay,
        _sum(vectors, decay, added, *terms),
        out=out,
        level=level,
        grad_out=grad_out,
        grad_vectors=grad_vectors,
        grad_decay=grad_decay,
        grad_lengths=grad_lengths,
        grad_squares=grad_squares,
    )
    return grads


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.width, reach, _ = inputs
    ctx.save_for_backward(*output, *tensors, reach)


def _differentiate(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Any, ...]:
    out, level, radial, *tensors, reach = ctx.saved_tensors
    grad_out = grad_out.contiguous()
    inputs: list[Any] = [grad_out, out, level, *tensors, ctx.width, reach]
    grad_vectors, grad_decay, *grads = _lattice_attention_backward(*inputs)
    grad_added = None
    if ctx.needs_input_grad[2]:
        by_head = matrix_product(radial.permute(2, 1, 0), grad_out.permute(2, 0, 1))
        grad_added = by_head.permute(1, 2, 0)
    return grad_vectors, grad_decay, grad_added, *grads, *[None] * 7


@operator("lattice_attention", fake=_results, backward=_differentiate, setup_context=_save)
def _lattice_attention(
    vectors: Tensor,
    decay: Tensor,
    added: Tensor,
    lengths: Tensor,
    squares: Tensor,
    image_of: Tensor,
    first_term: Tensor,
    ptr: Tensor,
    centers: Tensor,
    width: float,
    reach: Tensor | None,
    keep_radial: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = (
        vectors,
        decay,
        added,
        lengths,
        squares,
        image_of,
        first_term,
        ptr,
        centers,
        width,
        reach,
    )
    out, level, radial = _results(*inputs, keep_radial)
    launch(
        "lattice_attention",
        decay,
        _sum(*inputs),
        out=out,
        level=level,
        radial=radial if keep_radial else None,
    )
    return out, level, radial
