"""The ops in plain, readable torch and NumPy: what the kernels are tested against."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bits = NDArray[np.uint64]
"""Arrays of 32-bit words, kept in 64 bits so that products do not overflow."""

_MASK = np.uint64(0xFFFFFFFF)
_PAPER_FLOOR = 1e-6


def masked_softmax(
    element_logits: Tensor,
    pattern_logits: Tensor,
    allowed: Tensor,
    ptr: Tensor,
    temperature: float | Tensor,
    *,
    masking: str = "exact",
) -> tuple[Tensor, Tensor]:
    """Same as :func:`smoacs.ops.masked_softmax`, for an unpacked mask and without checks."""
    crystals, _ = pattern_logits.shape
    crystal = torch.repeat_interleave(torch.arange(crystals, device=ptr.device), ptr.diff())
    t = torch.as_tensor(temperature, dtype=element_logits.dtype, device=ptr.device).expand(crystals)
    padding = torch.isneginf(pattern_logits)
    # A padding pattern has weight 0; letting it allow everything keeps its softmax finite.
    allowed = allowed | padding[crystal][:, :, None]
    a, w = element_logits, pattern_logits
    if masking == "paper":
        a = a.clamp_min(_PAPER_FLOOR)
        w = torch.where(padding, w, w.clamp_min(_PAPER_FLOOR))
    masked = 0.0 if masking == "paper" else -torch.inf
    p = _softmax(torch.where(allowed, a[:, None, :], masked), t[crystal][:, None, None])
    q = _softmax(w, t[:, None])
    x = (q[crystal][:, :, None] * p).sum(1)
    if masking == "paper":
        x = _softmax(x, t[crystal][:, None])
    return x, q


def _softmax(logits: Tensor, temperature: Tensor) -> Tensor:
    top = logits.detach().amax(-1, keepdim=True)
    return torch.softmax((logits - top) / temperature, dim=-1)


def gated_messages(
    edge: Tensor,
    src_gate: Tensor,
    dst_gate: Tensor,
    values: Tensor,
    src: Tensor,
    dst: Tensor,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Same as :func:`smoacs.ops.gated_messages`, from the ends of the edges."""
    logits = edge + src_gate[src] + dst_gate[dst]
    gates = torch.sigmoid(logits)
    zeros = torch.zeros_like(values)
    total = zeros.index_add(0, dst, gates * values[src])
    return logits, total / (zeros.index_add(0, dst, gates) + eps)


def pair_cosines(vectors: Tensor, src: Tensor, dst: Tensor) -> Tensor:
    """Same as :func:`smoacs.ops.pair_cosines`, from the bonds of the pairs."""
    directions = vectors / vectors.norm(dim=1, keepdim=True)
    return -(directions[src] * directions[dst]).sum(1).clamp(-1.0, 1.0)


def norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    *,
    eps: float | None,
) -> Tensor:
    """Same as :func:`smoacs.ops.norm_silu`."""
    if eps is not None:
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + eps).sqrt()
    activated = torch.nn.functional.silu(weight * x + bias)
    return activated if residual is None else residual + activated


def interpolate(table: Tensor, values: Tensor, *, low: float, step: float) -> Tensor:
    """Same as :func:`smoacs.ops.interpolate`."""
    places = (values.double() - low) / step
    first = (places.detach().floor() - 2).clamp(0, len(table) - 6)
    t = places - first
    rows = []
    for j in range(6):
        factors = [(t - i) / (j - i) for i in range(6) if i != j]
        rows.append(torch.stack(factors).prod(0).to(table.dtype)[:, None] * table[first.long() + j])
    return torch.stack(rows).sum(0)


def philox4x32(counter: tuple[Bits, Bits, Bits, Bits], key: tuple[Bits, Bits]) -> tuple[Bits, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011) on arrays of 32-bit words."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1 = (b >> np.uint64(32)) ^ x1 ^ k0, b & _MASK
        x2, x3 = (a >> np.uint64(32)) ^ x3 ^ k1, a & _MASK
        k0 = (k0 + np.uint64(0x9E3779B9)) & _MASK
        k1 = (k1 + np.uint64(0xBB67AE85)) & _MASK
    return x0, x1, x2, x3


def random_uniform(
    seed: int, candidates: Tensor, step: int | Tensor, variable: int, ptr: Tensor, width: int
) -> Tensor:
    """Same as :func:`smoacs.ops.random_uniform`, float64 on the CPU."""
    first, second, odd = _uniform_pairs(seed, candidates, step, variable, ptr, width)
    return torch.from_numpy(np.where(odd, second, first)).reshape(-1, width)


def random_normal(
    seed: int, candidates: Tensor, step: int | Tensor, variable: int, ptr: Tensor, width: int
) -> Tensor:
    """Same as :func:`smoacs.ops.random_normal`, float64 on the CPU."""
    first, second, odd = _uniform_pairs(seed, candidates, step, variable, ptr, width)
    radius, angle = np.sqrt(-2.0 * np.log1p(-first)), 2.0 * np.pi * second
    normal = radius * np.where(odd, np.sin(angle), np.cos(angle))
    return torch.from_numpy(normal).reshape(-1, width)


def _uniform_pairs(
    seed: int, candidates: Tensor, step: int | Tensor, variable: int, ptr: Tensor, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Both numbers of the pair that each number belongs to, and whether it is the second."""
    counts = ptr.diff().numpy() * width
    crystal = np.repeat(np.arange(counts.size), counts)
    number = np.arange(crystal.size) - (ptr[:-1].numpy() * width)[crystal]
    steps = torch.as_tensor(step).expand(counts.size).numpy()
    identity = candidates.numpy().astype(np.uint64)[crystal]
    bits = philox4x32(
        (
            (number // 2).astype(np.uint64),
            steps.astype(np.uint64)[crystal],
            identity & _MASK,
            (identity >> np.uint64(32)) | np.uint64(variable << 16),
        ),
        (np.array([seed & 0xFFFFFFFF], np.uint64), np.array([seed >> 32], np.uint64)),
    )
    first, second = (
        ((high >> np.uint64(5)) * 2.0**26 + (low >> np.uint64(6))) / 2.0**53
        for high, low in (bits[:2], bits[2:])
    )
    return first, second, number % 2 == 1


def resample(
    values: Tensor,
    ptr: Tensor,
    parents: Tensor,
    candidates: Tensor,
    sigma: float,
    seed: int,
    step: int | Tensor,
    variable: int,
) -> Tensor:
    """Same as :func:`smoacs.ops.resample`, float64 on the CPU and without checks."""
    counts = ptr.diff()
    crystal = torch.repeat_interleave(torch.arange(counts.numel()), counts)
    row = torch.arange(values.shape[0]) - ptr[crystal]
    copies = values[ptr[parents[crystal]] + row]
    noise = random_normal(seed, candidates, step, variable, ptr, values.shape[1])
    mutated = (parents != torch.arange(counts.numel()))[crystal]
    return torch.where(mutated[:, None], copies + sigma * noise, values)
