"""Attention to all periodic images of all atoms of a crystal, without storing the images.

The "infinitely connected attention" of Taniai et al., ICLR 2024. Weights and radial functions of
the images are recomputed in the backward pass, so that memory does not grow with (images, heads,
radial functions): atom by atom in one operation on the CPU, block by block in torch on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from smoacs import ops
from smoacs.ops import TermOwners, matrix_product
from smoacs.predictors.crystalformer_terms import Block, LatticeTerms
from smoacs.predictors.layers import add_at_, sum_at

# Of exponents: what is smaller counts as nothing, and subnormal numbers are slow on a CPU.
_LOWEST_EXPONENT = -80.0
_SLOTS_PER_BLOCK = 2**20


def lattice_attention(
    pair_logits: Tensor, decay: Tensor, terms: LatticeTerms, centers: Tensor, width: float
) -> tuple[Tensor, Tensor]:
    """Softmax over all images of all atoms, summed over the images.

    The weight of a term is ``exp(pair_logits + decay * squares)``, normalised for each atom and
    head.

    Parameters
    ----------
    pair_logits : Tensor (P, H), float
        Similarity of the two atoms of each pair, for H heads.
    decay : Tensor (S, H), float
        Negative; ``-1 / (2 sigma^2)`` of each atom's Gaussians, 1/Å^2.
    terms : LatticeTerms
    centers : Tensor (K,), float
        Of the Gaussian radial functions, in even steps, Å.
    width : float
        Their standard deviation in Å.

    Returns
    -------
    weights : Tensor (P, H)
        Weight of all images of the second atom for the first.
    radial : Tensor (S, H, K)
        Weighted mean of the radial functions of the distances.
    """
    if decay.is_cpu:
        pairs = terms.pairs
        owners = TermOwners(terms.start, terms.count, pairs.row, pairs.count, terms.pair)
        return ops.lattice_attention(
            pair_logits, decay, terms.lengths, terms.squares, owners, centers, width, terms.reach
        )
    return attention_in_blocks(pair_logits, decay, terms, centers, width)


def attention_in_blocks(
    pair_logits: Tensor, decay: Tensor, terms: LatticeTerms, centers: Tensor, width: float
) -> tuple[Tensor, Tensor]:
    """What :func:`lattice_attention` gives, block by block on any device."""
    # Subtracting the largest exponent of each atom leaves the softmax as it is.
    pairs, squares = terms.pairs, terms.squares.detach()
    nearest = squares.new_full((pairs.first.numel() + 1,), torch.inf)
    nearest = nearest.scatter_reduce(0, terms.pair, squares, "amin")[:-1, None]
    with torch.no_grad():
        exponents = pair_logits + decay.index_select(0, pairs.first) * nearest
        top = torch.full_like(decay, -torch.inf).scatter_reduce(
            0, pairs.first[:, None].expand_as(exponents), exponents, "amax"
        )
    return _LatticeAttention.apply(
        pair_logits - top.index_select(0, pairs.first),
        decay,
        terms.lengths,
        terms.squares,
        terms,
        centers,
        width,
    )


class _LatticeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pair_logits: Tensor,
        decay: Tensor,
        lengths: Tensor,
        squares: Tensor,
        terms: LatticeTerms,
        centers: Tensor,
        width: float,
    ) -> tuple[Tensor, Tensor]:
        heads = decay.shape[1]
        logits = _with_empty_row(pair_logits, -torch.inf)
        weights = torch.zeros_like(logits)
        norm = torch.empty_like(decay)
        radial = decay.new_empty(*decay.shape, len(centers))
        for block in terms.blocks(_SLOTS_PER_BLOCK):
            weight = _weights(block, logits, decay, squares, terms)
            length = lengths[block.slots].view(weight.shape[:2])
            total = weight.sum(1)
            sums = matrix_product(weight.mT, _gaussians(length, centers, width))
            norm[block.atoms] = total
            radial[block.atoms] = sums.div_(total[:, :, None])
            add_at_(weights, terms.pair[block.slots], weight.view(-1, heads))
        weights = weights[:-1] / norm.index_select(0, terms.pairs.first)
        ctx.save_for_backward(pair_logits, decay, lengths, squares, centers, norm, weights, radial)
        ctx.terms, ctx.width = terms, width
        return weights, radial

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_weights: Tensor, grad_radial: Tensor) -> tuple[Tensor | None, ...]:
        pair_logits, decay, lengths, squares, centers, norm, weights, radial = ctx.saved_tensors
        terms, width = ctx.terms, ctx.width
        heads = decay.shape[1]
        logits = pair_logits - norm.log().index_select(0, terms.pairs.first)
        logits = _with_empty_row(logits, -torch.inf)
        # Mean of the terms' gradients over the softmax, from what was summed up forward.
        mean = sum_at(weights * grad_weights, terms.pairs.first, len(decay))
        mean = mean + (radial * grad_radial).sum(2)
        outer = grad_weights - mean.index_select(0, terms.pairs.first)
        outer = _with_empty_row(outer, 0.0)
        # d(basis)/d(length) = basis * (center - length) / width^2, so that basis is all it takes.
        moving = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        slopes = torch.cat([grad_radial, grad_radial * centers], dim=1) if moving else grad_radial
        slopes = slopes.transpose(1, 2)
        grad_logits = torch.zeros_like(logits)
        grad_decay = torch.empty_like(decay)
        grad_lengths = torch.empty_like(lengths) if moving else None
        grad_squares = torch.empty_like(squares) if moving else None
        for block in terms.blocks(_SLOTS_PER_BLOCK):
            pair = terms.pair[block.slots]
            weight = _weights(block, logits, decay, squares, terms)
            length = lengths[block.slots].view(weight.shape[:2])
            products = matrix_product(_gaussians(length, centers, width), slopes[block.atoms])
            inner = products[:, :, :heads]
            grad = outer.index_select(0, pair).view(weight.shape).add_(inner).mul_(weight)
            add_at_(grad_logits, pair, grad.view(-1, heads))
            square = squares[block.slots].view(length.shape)[:, :, None]
            grad_decay[block.atoms] = matrix_product(grad.mT, square)[:, :, 0]
            if grad_lengths is not None and grad_squares is not None:
                moment = products[:, :, heads:]
                slope = moment.addcmul_(inner, length[:, :, None], value=-1).mul_(weight)
                grad_lengths[block.slots] = slope.sum(2).div_(width**2).view(-1)
                grad_squares[block.slots] = grad.mul_(decay[block.atoms][:, None]).sum(2).view(-1)
        return grad_logits[:-1], grad_decay, grad_lengths, grad_squares, None, None, None


def _gaussians(lengths: Tensor, centers: Tensor, width: float) -> Tensor:
    """Gaussians (..., K) at lengths (...); below e^-72 they stay there."""
    away = lengths[..., None] - centers
    return away.square_().mul_(-0.5 / width**2).clamp_(min=-72.0).exp_()


def _with_empty_row(values: Tensor, fill: float) -> Tensor:
    """One more row, for the slots without a term."""
    return torch.cat([values, values.new_full((1, values.shape[1]), fill)])


def _weights(
    block: Block, logits: Tensor, decay: Tensor, squares: Tensor, terms: LatticeTerms
) -> Tensor:
    """Exponentials (atoms, slots, heads) of a block."""
    atoms, slots = block.atoms, block.slots
    shape = (len(atoms), -1, decay.shape[1])
    own = decay[atoms][:, None]
    exponent = logits.index_select(0, terms.pair[slots]).view(shape)
    exponent.addcmul_(own, squares[slots].view(len(atoms), -1, 1))
    if terms.reach is not None:
        sigma = (-0.5 / own).sqrt()
        exponent.masked_fill_(sigma <= terms.reach[slots].view(len(atoms), -1, 1), -torch.inf)
    return exponent.clamp_(min=_LOWEST_EXPONENT).exp_()
