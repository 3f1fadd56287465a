"""ALIGNN in plain torch, without the fused operations: what they are tested and timed against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from torch import Tensor, nn
from torch.nn import functional

from smoacs.ops import ConvolutionWeights, Incidence, reference
from smoacs.predictors import alignn


@contextmanager
def plain_torch() -> Iterator[None]:
    """Let the networks of :mod:`smoacs.predictors.alignn` run in plain torch."""
    with ExitStack() as stack:
        for name, plain in (
            ("gated_messages", _gated_messages),
            ("norm_silu", reference.norm_silu),
            ("pair_cosines", _pair_cosines),
            ("convolution", plain_convolution),
        ):
            stack.enter_context(mock.patch.object(alignn, name, plain))
        stack.enter_context(mock.patch.object(alignn.ALIGNN, "_embed", _embed))
        yield


def _gated_messages(
    edge: Tensor,
    src_gate: Tensor,
    dst_gate: Tensor,
    values: Tensor,
    incidence: Incidence,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    ends = incidence.src, incidence.dst
    return reference.gated_messages(edge, src_gate, dst_gate, values, *ends, eps=eps)


def _pair_cosines(vectors: Tensor, pairs: Incidence) -> Tensor:
    return reference.pair_cosines(vectors, pairs.src, pairs.dst)


def plain_convolution(
    x: Tensor,
    y: Tensor,
    incidence: Incidence,
    weights: ConvolutionWeights,
    *,
    update_edges: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Same as :func:`smoacs.ops.convolution`."""
    logits, mean = _gated_messages(
        functional.linear(y, *weights.edge_gate),
        functional.linear(x, *weights.src_gate),
        functional.linear(x, *weights.dst_gate),
        functional.linear(x, *weights.values),
        incidence,
        eps=weights.eps,
    )
    hidden = functional.linear(x, *weights.update) + mean
    norm_eps = weights.norm_eps
    return (
        reference.norm_silu(hidden, *weights.node_norm, x, eps=norm_eps),
        reference.norm_silu(logits, *weights.edge_norm, y, eps=norm_eps) if update_edges else None,
    )


def _embed(
    network: alignn.ALIGNN, embedding: nn.Module, values: Tensor, low: float, high: float
) -> Tensor:
    return embedding(values)
