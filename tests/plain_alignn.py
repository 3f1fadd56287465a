"""ALIGNN in plain torch, without the fused operations: what they are tested and timed against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from torch import Tensor

from smoacs.ops import Incidence, reference
from smoacs.predictors import alignn


@contextmanager
def plain_torch() -> Iterator[None]:
    """Let the networks of :mod:`smoacs.predictors.alignn` run in plain torch."""
    with ExitStack() as stack:
        for name, plain in (
            ("gated_messages", _gated_messages),
            ("norm_silu", reference.norm_silu),
            ("pair_cosines", _pair_cosines),
        ):
            stack.enter_context(mock.patch.object(alignn, name, plain))
        stack.enter_context(mock.patch.object(alignn.ALIGNN, "_embed_cosines", _embed_cosines))
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


def _embed_cosines(network: alignn.ALIGNN, cosines: Tensor) -> Tensor:
    return network.angle_embedding(cosines)
