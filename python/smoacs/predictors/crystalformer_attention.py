"""Attention to all periodic images of all atoms of a crystal, without storing the images.

The "infinitely connected attention" of Taniai et al., ICLR 2024. Weights and radial functions of
the images are recomputed in the backward pass, so that memory does not grow with (images, heads,
radial functions): atom by atom in one operation on the CPU, block by block in torch on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from smoacs import ops
from smoacs.ops import matrix_product
from smoacs.predictors.crystalformer_slots import AtomPairs, Block, Slots
from smoacs.predictors.crystalformer_terms import LatticeTerms
from smoacs.predictors.layers import add_at_, sum_at

# Of exponents: what is smaller counts as nothing, and subnormal numbers are slow on a CPU.
_LOWEST_EXPONENT = -80.0
_SLOTS_PER_BLOCK = 2**20

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""Takes ``vectors, decay, added, centers, width`` of :func:`smoacs.ops.lattice_attention`."""


def attention_to(terms: LatticeTerms) -> Attention:
    """The lattice attention to these terms: the operation on the CPU, blocks elsewhere."""
    if not terms.lengths.is_cpu:
        return attention_in_blocks(terms)

    def attention(
        vectors: Tensor, decay: Tensor, added: Tensor, centers: Tensor, width: float
    ) -> Tensor:
        return ops.lattice_attention(
            vectors,
            decay,
            added,
            terms.lengths,
            terms.squares,
            terms.image_of,
            terms.first_term,
            terms.ptr,
            centers,
            width,
            terms.reach,
        )

    return attention


def attention_in_blocks(terms: LatticeTerms) -> Attention:
    """What :func:`attention_to` gives, block by block on any device."""
    slots = Slots.of(terms)
    pairs, squares = slots.pairs, slots.squares.detach()
    nearest = squares.new_full((pairs.first.numel() + 1,), torch.inf)
    nearest = nearest.scatter_reduce(0, slots.pair, squares, "amin")[:-1, None]

    def attention(
        vectors: Tensor, decay: Tensor, added: Tensor, centers: Tensor, width: float
    ) -> Tensor:
        q, k, v = vectors.transpose(2, 3).unbind(1)
        logits = _pair_products(q, k, pairs)
        # Subtracting the largest exponent of each atom leaves the softmax as it is.
        with torch.no_grad():
            exponents = logits + decay.index_select(0, pairs.first) * nearest
            top = torch.full_like(decay, -torch.inf).scatter_reduce(
                0, pairs.first[:, None].expand_as(exponents), exponents, "amax"
            )
        weights, radial = _LatticeAttention.apply(
            logits - top.index_select(0, pairs.first),
            decay,
            slots.lengths,
            slots.squares,
            slots,
            centers,
            width,
        )
        positions = matrix_product(radial.transpose(0, 1), added.permute(2, 0, 1))
        return _pair_sums(weights, v, pairs).transpose(1, 2) + positions.permute(1, 2, 0)

    return attention


class _LatticeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pair_logits: Tensor,
        decay: Tensor,
        lengths: Tensor,
        squares: Tensor,
        slots: Slots,
        centers: Tensor,
        width: float,
    ) -> tuple[Tensor, Tensor]:
        heads = decay.shape[1]
        logits = _with_empty_row(pair_logits, -torch.inf)
        weights = torch.zeros_like(logits)
        norm = torch.empty_like(decay)
        radial = decay.new_empty(*decay.shape, len(centers))
        for block in slots.blocks(_SLOTS_PER_BLOCK):
            weight = _weights(block, logits, decay, squares, slots)
            length = lengths[block.slots].view(weight.shape[:2])
            total = weight.sum(1)
            sums = matrix_product(weight.mT, _gaussians(length, centers, width))
            norm[block.atoms] = total
            radial[block.atoms] = sums.div_(total[:, :, None])
            add_at_(weights, slots.pair[block.slots], weight.view(-1, heads))
        weights = weights[:-1] / norm.index_select(0, slots.pairs.first)
        ctx.save_for_backward(pair_logits, decay, lengths, squares, centers, norm, weights, radial)
        ctx.slots, ctx.width = slots, width
        return weights, radial

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_weights: Tensor, grad_radial: Tensor) -> tuple[Tensor | None, ...]:
        pair_logits, decay, lengths, squares, centers, norm, weights, radial = ctx.saved_tensors
        slots, width = ctx.slots, ctx.width
        heads = decay.shape[1]
        logits = pair_logits - norm.log().index_select(0, slots.pairs.first)
        logits = _with_empty_row(logits, -torch.inf)
        # Mean of the terms' gradients over the softmax, from what was summed up forward.
        mean = sum_at(weights * grad_weights, slots.pairs.first, len(decay))
        mean = mean + (radial * grad_radial).sum(2)
        outer = grad_weights - mean.index_select(0, slots.pairs.first)
        outer = _with_empty_row(outer, 0.0)
        # d(basis)/d(length) = basis * (center - length) / width^2, so that basis is all it takes.
        moving = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        slopes = torch.cat([grad_radial, grad_radial * centers], dim=1) if moving else grad_radial
        slopes = slopes.transpose(1, 2)
        grad_logits = torch.zeros_like(logits)
        grad_decay = torch.empty_like(decay)
        grad_lengths = torch.empty_like(lengths) if moving else None
        grad_squares = torch.empty_like(squares) if moving else None
        for block in slots.blocks(_SLOTS_PER_BLOCK):
            pair = slots.pair[block.slots]
            weight = _weights(block, logits, decay, squares, slots)
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


def _weights(block: Block, logits: Tensor, decay: Tensor, squares: Tensor, slots: Slots) -> Tensor:
    """Exponentials (atoms, slots, heads) of a block."""
    atoms, here = block.atoms, block.slots
    shape = (len(atoms), -1, decay.shape[1])
    own = decay[atoms][:, None]
    exponent = logits.index_select(0, slots.pair[here]).view(shape)
    exponent.addcmul_(own, squares[here].view(len(atoms), -1, 1))
    if slots.reach is not None:
        sigma = (-0.5 / own).sqrt()
        exponent.masked_fill_(sigma <= slots.reach[here].view(len(atoms), -1, 1), -torch.inf)
    return exponent.clamp_(min=_LOWEST_EXPONENT).exp_()


def _pair_products(q: Tensor, k: Tensor, pairs: AtomPairs) -> Tensor:
    """Scaled products (P, H) of the queries and keys (S, H, D) of all pairs."""
    heads = q.shape[1]
    rows = pairs.grouped(q * q.shape[2] ** -0.5)
    products = []
    for row, column in zip(rows, pairs.grouped(k), strict=True):
        columns = column.permute(0, 2, 3, 1).flatten(0, 1)
        product = matrix_product(row.transpose(1, 2).flatten(0, 1), columns)
        products.append(product.unflatten(0, (-1, heads)).permute(0, 2, 3, 1).reshape(-1, heads))
    return torch.cat(products)


def _pair_sums(weights: Tensor, v: Tensor, pairs: AtomPairs) -> Tensor:
    """Sum over the second atoms of all pairs of their vectors (S, H, D), weighted (P, H)."""
    heads = v.shape[1]
    values = pairs.grouped(v)
    parts = weights.split([value.shape[0] * value.shape[1] ** 2 for value in values])
    sums = []
    for value, part in zip(values, parts, strict=True):
        n = value.shape[1]
        weight = part.view(-1, n, n, heads).permute(0, 3, 1, 2).flatten(0, 1)
        total = matrix_product(weight, value.transpose(1, 2).flatten(0, 1))
        sums.append(total.unflatten(0, (-1, heads)).transpose(1, 2).flatten(0, 1))
    return torch.empty_like(v).index_copy(0, pairs.sites, torch.cat(sums))
