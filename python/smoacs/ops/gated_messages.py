"""The sums of an edge-gated graph convolution around its matrix products, differentiable."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from smoacs.ops._grouping import grouped
from smoacs.ops._native import addresses, check_tensor, kernels, launch
from smoacs.ops._operator import operator


class Incidence(NamedTuple):
    """Edges of a graph of N nodes, and those that start and end at each node.

    Attributes
    ----------
    src, dst : Tensor (E,), int64
        Nodes at the ends of the edges. Rows with N at both ends are no edges: lists with more
        capacity than edges end in such rows.
    by_src, by_dst : Tensor (E,), int64
        Edges in ascending order of their source and of their destination, then what is no edge.
    first_out, first_in : Tensor (N + 1,), int64
        Where the edges of each node start in these orders.
    """

    src: Tensor
    dst: Tensor
    by_src: Tensor
    first_out: Tensor
    by_dst: Tensor
    first_in: Tensor

    @classmethod
    def of(cls, src: Tensor, dst: Tensor, n_nodes: int) -> Incidence:
        """Sort the edges of a graph.

        Raises
        ------
        TypeError
            If ``src`` or ``dst`` is not int64.
        ValueError
            If they differ in length, or name nodes that are not there (on a GPU, which cannot tell
            in time, :func:`gated_messages` gives NaN for such edges and their nodes).
        """
        check_tensor("src", src, (None,), torch.int64, src.device)
        check_tensor("dst", dst, (src.shape[0],), torch.int64, src.device)
        src, dst = src.contiguous(), dst.contiguous()
        edges = cls(src, dst, *grouped(src, n_nodes), *grouped(dst, n_nodes))
        if src.is_cpu:
            no_source, no_end = (
                edges.by_src[edges.first_out[-1] :],
                edges.by_dst[edges.first_in[-1] :],
            )
            if not torch.equal(no_source, no_end):
                raise ValueError(
                    f"src and dst must be nodes 0 ... {n_nodes - 1}, or both be {n_nodes} where "
                    "there is no edge; an edge has one of each"
                )
        return edges

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self.first_in.shape[0] - 1


def gated_messages(
    edge: Tensor,
    src_gate: Tensor,
    dst_gate: Tensor,
    values: Tensor,
    incidence: Incidence,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Logits of the gates on the edges, and gated means of values over the edges into each node.

    ``logits = edge + src_gate[src] + dst_gate[dst]`` and, with ``gate = sigmoid(logits)``,
    ``mean_n = sum_e gate_e values[src_e] / (sum_e gate_e + eps)`` over the edges e into node n
    (Bresson, Laurent, arXiv:1711.07553). Sums run in the order of the edges; for the gradients,
    the gates are computed again. There is no second derivative. The logits of rows that are no
    edges are 0 and nothing depends on these rows.

    Parameters
    ----------
    edge : Tensor (E, F), float32 or float64
    src_gate, dst_gate, values : Tensor (N, F), same dtype
    incidence : Incidence
    eps : float
        Keeps nodes without edges at zero.

    Returns
    -------
    logits : Tensor (E, F)
    mean : Tensor (N, F)

    Raises
    ------
    ValueError
        If a shape or a device does not fit.
    TypeError
        If a dtype does not.
    """
    device, n_edges, n_nodes = incidence.src.device, incidence.src.shape[0], incidence.n_nodes
    check_tensor("edge", edge, (n_edges, None), (torch.float32, torch.float64), device)
    shape = (n_nodes, edge.shape[1])
    check_tensor("src_gate", src_gate, shape, edge.dtype, device)
    check_tensor("dst_gate", dst_gate, shape, edge.dtype, device)
    check_tensor("values", values, shape, edge.dtype, device)
    logits, mean, _ = _gated_messages(
        edge.contiguous(),
        src_gate.contiguous(),
        dst_gate.contiguous(),
        values.contiguous(),
        *incidence,
        eps,
    )
    return logits, mean


def _ends(incidence: Incidence, n_features: int) -> Any:
    return kernels().EdgeEnds(
        n_nodes=incidence.n_nodes,
        n_edges=len(incidence.src),
        n_features=n_features,
        **addresses(**incidence._asdict()),
    )


def _like_edges(edge: Tensor, values: Tensor) -> Tensor:
    """Room for numbers of the edges; the kernels fill it, if there is a node."""
    return torch.empty_like(edge) if values.shape[0] > 0 else torch.zeros_like(edge)


def _like_gradients(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        _like_edges(logits, values),
        torch.empty_like(values),
        torch.empty_like(values),
        torch.empty_like(values),
    )


@operator(
    "gated_messages_backward",
    fake=lambda grad_logits, grad_mean, logits, values, *_: _like_gradients(logits, values),
)
def _gated_messages_backward(
    grad_logits: Tensor | None,
    grad_mean: Tensor,
    logits: Tensor,
    values: Tensor,
    mean: Tensor,
    norm: Tensor,
    src: Tensor,
    dst: Tensor,
    by_src: Tensor,
    first_out: Tensor,
    by_dst: Tensor,
    first_in: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = _like_gradients(logits, values)
    launch(
        "gated_messages_backward",
        logits,
        _ends(Incidence(src, dst, by_src, first_out, by_dst, first_in), logits.shape[1]),
        logits=logits,
        values=values,
        mean=mean,
        norm=norm,
        grad_logits=grad_logits,
        grad_mean=grad_mean,
        grad_total=torch.empty_like(mean),
        grad_edge=grads[0],
        grad_src_gate=grads[1],
        grad_dst_gate=grads[2],
        grad_values=grads[3],
    )
    return grads


def _like_results(edge: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _like_edges(edge, values), torch.empty_like(values), torch.empty_like(values)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    logits, mean, norm = output
    ctx.save_for_backward(logits, inputs[3], mean, norm, *inputs[4:10])


def _backward(
    ctx: Any, grad_logits: Tensor | None, grad_mean: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    logits, values, mean, norm, *ends = ctx.saved_tensors
    grads = _gated_messages_backward(
        None if grad_logits is None else grad_logits.contiguous(),
        torch.zeros_like(mean) if grad_mean is None else grad_mean.contiguous(),
        logits,
        values,
        mean,
        norm,
        *ends,
    )
    return *grads, *(None,) * 7


@operator(
    "gated_messages",
    fake=lambda edge, src_gate, dst_gate, values, *_: _like_results(edge, values),
    backward=_backward,
    setup_context=_save,
)
def _gated_messages(
    edge: Tensor,
    src_gate: Tensor,
    dst_gate: Tensor,
    values: Tensor,
    src: Tensor,
    dst: Tensor,
    by_src: Tensor,
    first_out: Tensor,
    by_dst: Tensor,
    first_in: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    logits, mean, norm = _like_results(edge, values)
    launch(
        "gated_messages",
        edge,
        _ends(Incidence(src, dst, by_src, first_out, by_dst, first_in), edge.shape[1]),
        edge=edge,
        src_gate=src_gate,
        dst_gate=dst_gate,
        values=values,
        eps=eps,
        logits=logits,
        mean=mean,
        norm=norm,
    )
    return logits, mean, norm
