"""Distributions over elements that respect oxidation patterns (paper, eqs 4-5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from smoacs.ops._native import check_tensor, empty_like, launch
from smoacs.ops._operator import operator

MAX_ELEMENTS = 128
_WORD_BITS = 32
_FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class PackedMask:
    """Elements that S sites may hold under K patterns, one bit each; see :func:`pack_mask`.

    Attributes
    ----------
    words : Tensor (S, K, ceil(Z / 32)), int32
        Bit z % 32 of word z // 32 is set where element z is allowed.
    n_elements : int
        Z.
    """

    words: Tensor
    n_elements: int

    def select(self, site_indices: Sequence[int] | Tensor) -> Self:
        """The mask of some sites, in that order; repeats are allowed."""
        index = torch.as_tensor(site_indices, dtype=torch.int64, device=self.words.device)
        return replace(self, words=self.words[index])

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device."""
        return replace(self, words=self.words.to(device))

    def unpack(self) -> Tensor:
        """The mask as (S, K, Z) bool."""
        bits = torch.arange(_WORD_BITS, dtype=torch.int32, device=self.words.device)
        allowed = (self.words[..., None] >> bits) & 1
        return allowed.flatten(2)[..., : self.n_elements].bool()


def pack_mask(allowed: Tensor) -> PackedMask:
    """Pack a mask into bits.

    Parameters
    ----------
    allowed : Tensor (S, K, Z), bool
        M of eq. 4: whether site s may hold element z under oxidation pattern k; 1 <= Z <= 128.

    Raises
    ------
    TypeError, ValueError
        If ``allowed`` is of another type or shape.
    """
    check_tensor("allowed", allowed, (None, None, None), torch.bool, allowed.device)
    sites, patterns, n_elements = allowed.shape
    if not 1 <= n_elements <= MAX_ELEMENTS:
        raise ValueError(f"a mask holds 1 to {MAX_ELEMENTS} elements, got {n_elements}")
    words = math.ceil(n_elements / _WORD_BITS)
    padded = allowed.new_zeros(sites, patterns, words * _WORD_BITS)
    padded[..., :n_elements] = allowed
    weights = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=allowed.device)
    bits = padded.view(torch.uint8).reshape(sites, patterns, words * 4, 8)
    octets = (bits * weights).sum(-1, dtype=torch.uint8)
    return PackedMask(octets.view(torch.int32), n_elements)


def masked_softmax(
    element_logits: Tensor,
    pattern_logits: Tensor,
    allowed: Tensor | PackedMask,
    ptr: Tensor,
    temperature: float | Tensor,
    *,
    masking: str = "exact",
) -> tuple[Tensor, Tensor]:
    """Mix, for each site, the softmax over the elements that each oxidation pattern allows.

    With ``masking="exact"``, forbidden elements get probability 0 and

        p[n,k,:] = softmax_z(a[n,:] / T + log M[n,k,:]),  q = softmax_k(w / T),
        x[n,:] = sum_k q[k] p[n,k,:].

    With ``masking="paper"`` (eqs 4-5 as published), all logits are first raised to at least 1e-6,
    forbidden elements take part with logit 0, and a second softmax sharpens the mixture:

        p[n,k,:] = softmax_z(a[n,:] M[n,k,:] / T),  x[n,:] = softmax_z(sum_k q[k] p[n,k,:] / T).

    A crystal's result depends on nothing but its own logits: neither on the other crystals of the
    batch nor on the number of threads. Stable down to T = 1e-8, where it is an argmax.

    Parameters
    ----------
    element_logits : Tensor (S, Z), float32 or float64
        a; finite. 1 <= Z <= 128.
    pattern_logits : Tensor (C, K), same dtype
        w; finite, or -inf for a pattern that the crystal does not have: its weight and gradient
        are 0 and its mask is not read.
    allowed : Tensor (S, K, Z), bool, or PackedMask
        M. Pack a mask that is used more than once.
    ptr : Tensor (C + 1,), int64
        Offsets of the crystals' sites.
    temperature : float or Tensor (C,), same dtype
        T > 0, for all crystals or for each. It gets no gradient.
    masking : {"exact", "paper"}
        Form of the softmax.

    Returns
    -------
    composition : Tensor (S, Z)
        x, differentiable with respect to both kinds of logits.
    pattern_weights : Tensor (C, K)
        q, differentiable with respect to the pattern logits.

    Raises
    ------
    TypeError
        If a dtype is wrong.
    ValueError
        If shapes, devices or offsets do not match, T is not positive, a logit is NaN, or a site
        has no allowed element under one of its crystal's patterns. What only the values tell
        (all but shapes, devices and a T that is a float) raises on the CPU; on a GPU, where the
        host would have to wait for it, the results of that crystal or site are NaN.
    """
    device = element_logits.device
    check_tensor("element_logits", element_logits, (None, None), _FLOATS, device)
    sites, n_elements = element_logits.shape
    dtype = element_logits.dtype
    check_tensor("pattern_logits", pattern_logits, (None, None), dtype, device)
    crystals, patterns = pattern_logits.shape
    check_tensor("ptr", ptr, (crystals + 1,), torch.int64, device)
    if patterns == 0:
        raise ValueError("pattern_logits must have at least one column (oxidation pattern)")
    mask = allowed if isinstance(allowed, PackedMask) else pack_mask(allowed)
    if mask.n_elements != n_elements:
        raise ValueError(
            f"allowed is about {mask.n_elements} elements, element_logits about {n_elements}"
        )
    n_words = math.ceil(n_elements / _WORD_BITS)
    check_tensor("allowed (packed)", mask.words, (sites, patterns, n_words), torch.int32, device)
    if isinstance(temperature, Tensor):
        check_tensor("temperature", temperature, (crystals,), dtype, device)
    elif temperature > 0 and math.isfinite(temperature):
        temperature = element_logits.new_full((1,), temperature)
    else:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if masking not in ("exact", "paper"):
        raise ValueError(f'masking must be "exact" or "paper", got {masking!r}')
    composition, weights, _ = _masked_softmax(
        element_logits, pattern_logits, mask.words, ptr, temperature, masking == "paper"
    )
    return composition, weights


def _inputs(
    element_logits: Tensor, pattern_logits: Tensor, words: Tensor, ptr: Tensor, temperature: Tensor
) -> tuple[Any, ...]:
    """What both kernels take first."""
    return (
        *element_logits.shape,
        *pattern_logits.shape,
        temperature.numel(),
        element_logits.contiguous(),
        pattern_logits.contiguous(),
        words.contiguous(),
        ptr.contiguous(),
        temperature.contiguous(),
    )


def _results(
    element_logits: Tensor, pattern_logits: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Composition, weights, and what the kernels keep for the backward pass."""
    return (
        empty_like(element_logits),
        empty_like(pattern_logits),
        element_logits.new_empty(element_logits.shape[0], pattern_logits.shape[1] + 2),
    )


def _gradients(
    grad_composition: Tensor, grad_weights: Tensor, composition: Tensor, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return empty_like(composition), empty_like(weights)


@operator("masked_softmax_backward", fake=_gradients)
def _masked_softmax_backward(
    grad_composition: Tensor,
    grad_weights: Tensor,
    composition: Tensor,
    weights: Tensor,
    kept: Tensor,
    element_logits: Tensor,
    pattern_logits: Tensor,
    words: Tensor,
    ptr: Tensor,
    temperature: Tensor,
    paper: bool,
) -> tuple[Tensor, Tensor]:
    grads = _gradients(grad_composition, grad_weights, composition, weights)
    launch(
        "masked_softmax_backward",
        element_logits,
        *_inputs(element_logits, pattern_logits, words, ptr, temperature),
        paper,
        composition.contiguous(),
        weights.contiguous(),
        kept.contiguous(),
        grad_composition.contiguous(),
        grad_weights.contiguous(),
        element_logits.new_empty(composition.shape[0], weights.shape[1]),  # scratch
        *grads,
    )
    return grads


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.paper = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output, *tensors)


def _differentiate(
    ctx: Any, grad_composition: Tensor | None, grad_weights: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    given = zip((grad_composition, grad_weights), ctx.saved_tensors, strict=False)
    arguments: tuple[Any, ...] = (
        *(torch.zeros_like(result) if grad is None else grad for grad, result in given),
        *ctx.saved_tensors,
        ctx.paper,
    )
    grads = _masked_softmax_backward(*arguments)
    return *grads, None, None, None, None


@operator(
    "masked_softmax",
    fake=_results,
    backward=_differentiate,
    setup_context=_save,
)
def _masked_softmax(
    element_logits: Tensor,
    pattern_logits: Tensor,
    words: Tensor,
    ptr: Tensor,
    temperature: Tensor,
    paper: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    composition, weights, kept = _results(element_logits, pattern_logits)
    launch(
        "masked_softmax",
        element_logits,
        *_inputs(element_logits, pattern_logits, words, ptr, temperature),
        paper,
        composition,
        weights,
        kept,
    )
    return composition, weights, kept
