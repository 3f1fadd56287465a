"""The edge-gated graph convolution with frozen weights in one operation, on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from smoacs.ops._native import addresses, check_tensor, kernels, launch
from smoacs.ops._operator import operator
from smoacs.ops.gated_messages import Incidence

_FLOATS = (torch.float32, torch.float64)
_MAPS = ("edge_gate", "src_gate", "dst_gate", "values", "update")


class Affine(NamedTuple):
    """A linear map ``x @ weight.T + bias``, or the scale and shift of a normalised row.

    Attributes
    ----------
    weight : Tensor (F, F), or (F,) of a norm
    bias : Tensor (F,)
    """

    weight: Tensor
    bias: Tensor


class ConvolutionWeights(NamedTuple):
    """Weights of an edge-gated graph convolution; no gradient flows to them.

    Attributes
    ----------
    edge_gate, src_gate, dst_gate, values, update : Affine
        Maps of the edges and of the nodes.
    node_norm, edge_norm : Affine
        What follows the normalisation.
    norm_eps : float or None
        As ``eps`` of :func:`smoacs.ops.norm_silu`.
    eps : float
        As ``eps`` of :func:`smoacs.ops.gated_messages`.
    """

    edge_gate: Affine
    src_gate: Affine
    dst_gate: Affine
    values: Affine
    update: Affine
    node_norm: Affine
    edge_norm: Affine
    norm_eps: float | None
    eps: float

    @property
    def frozen(self) -> bool:
        """Whether no weight requires a gradient."""
        return not any(weight.requires_grad for weight in self._tensors())

    def _tensors(self) -> list[Tensor]:
        return [tensor for affine in self[:7] for tensor in affine]

    def _checked(self, x: Tensor) -> list[Tensor]:
        n = x.shape[1]
        for name, (weight, bias) in zip(self._fields, self[:7], strict=False):
            shape = (n, n) if name in _MAPS else (n,)
            check_tensor(f"weight of {name}", weight, shape, x.dtype, x.device)
            check_tensor(f"bias of {name}", bias, (n,), x.dtype, x.device)
        return [tensor.contiguous() for tensor in self._tensors()]


def convolution(
    x: Tensor,
    y: Tensor,
    incidence: Incidence,
    weights: ConvolutionWeights,
    *,
    update_edges: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Edge-gated graph convolution with residuals (Bresson, Laurent, arXiv:1711.07553).

    With ``logits, mean = gated_messages(edge_gate(y), src_gate(x), dst_gate(x), values(x))``,

        x <- x + silu(norm(update(x) + mean)),    y <- y + silu(norm(logits)).

    A batch of crystals goes through all of it in parts that stay in the cache. The result of a
    crystal does not depend on the others. There is no second derivative.

    Parameters
    ----------
    x : Tensor (N, F), float32 or float64, on the CPU
    y : Tensor (E, F), same dtype
    incidence : Incidence
        Rows that are no edges come last; their y stays as it is.
    weights : ConvolutionWeights
        Frozen: for gradients to weights there is :func:`smoacs.ops.gated_messages`.
    update_edges : bool
        Whether the new y is wanted.

    Returns
    -------
    x : Tensor (N, F)
    y : Tensor (E, F) or None

    Raises
    ------
    ValueError
        If a shape or a device does not fit, weights require a gradient, or an edge follows a row
        that is none.
    TypeError
        If a dtype does not.
    """
    check_tensor("x", x, (incidence.n_nodes, None), _FLOATS, torch.device("cpu"))
    check_tensor("y", y, (incidence.src.shape[0], x.shape[1]), x.dtype, x.device)
    tensors = weights._checked(x)
    if not weights.frozen:
        raise ValueError("weights must not require a gradient")
    x_out, y_out, *_ = _convolution(
        x.contiguous(),
        y.contiguous(),
        list(incidence),
        tensors,
        weights.norm_eps,
        weights.eps,
        update_edges,
    )
    return x_out, y_out if update_edges else None


def _layer(
    graph: list[Tensor], weights: list[Tensor], norm_eps: float | None, eps: float
) -> tuple[Any, Any]:
    """Graph and weights, as the kernels take them."""
    incidence = Incidence(*graph)
    ends = kernels().EdgeEnds(
        n_nodes=incidence.n_nodes,
        n_edges=len(incidence.src),
        n_features=weights[0].shape[0],
        **addresses(**incidence._asdict()),
    )
    layer = kernels().ConvolutionLayer(
        weights=[weight.data_ptr() for weight in weights],
        standardize=norm_eps is not None,
        norm_eps=norm_eps or 0.0,
        eps=eps,
    )
    return ends, layer


def _like(x: Tensor, y: Tensor, *options: Any) -> tuple[Tensor, ...]:
    """Room for the new x and y, and for what the gradients need of edges and nodes."""
    *_, update_edges = options
    y_out = torch.empty_like(y) if update_edges else y.new_empty(0, y.shape[1])
    return torch.empty_like(x), y_out, torch.empty_like(y), *(torch.empty_like(x) for _ in range(4))


@operator(
    "convolution_backward",
    fake=lambda grad_x_out, grad_y_out, logits, *_: (
        torch.empty_like(grad_x_out),
        torch.empty_like(logits),
    ),
)
def _convolution_backward(
    grad_x_out: Tensor,
    grad_y_out: Tensor | None,
    logits: Tensor,
    values: Tensor,
    mean: Tensor,
    norm: Tensor,
    hidden: Tensor,
    graph: list[Tensor],
    weights: list[Tensor],
    norm_eps: float | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    grad_x, grad_y = torch.empty_like(grad_x_out), torch.empty_like(logits)
    launch(
        "convolution_backward",
        logits,
        *_layer(graph, weights, norm_eps, eps),
        logits=logits,
        values=values,
        mean=mean,
        norm=norm,
        hidden=hidden,
        grad_x_out=grad_x_out,
        grad_y_out=grad_y_out,
        grad_x=grad_x,
        grad_y=grad_y,
    )
    return grad_x, grad_y


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, graph, weights, *ctx.options, ctx.update_edges = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[2:], *graph, *weights)


def _differentiate(
    ctx: Any, grad_x_out: Tensor | None, grad_y_out: Tensor | None, *_: None
) -> tuple[Any, ...]:
    kept, graph, weights = (list(ctx.saved_tensors[i:j]) for i, j in ((0, 5), (5, 11), (11, 25)))
    arguments = (
        torch.zeros_like(kept[1]) if grad_x_out is None else grad_x_out.contiguous(),
        grad_y_out.contiguous() if grad_y_out is not None and ctx.update_edges else None,
        *kept,
        graph,
        weights,
        *ctx.options,
    )
    grads = _convolution_backward(*arguments)
    return *grads, [None] * len(graph), [None] * len(weights), None, None, None


@operator("convolution", fake=_like, backward=_differentiate, setup_context=_save)
def _convolution(
    x: Tensor,
    y: Tensor,
    graph: list[Tensor],
    weights: list[Tensor],
    norm_eps: float | None,
    eps: float,
    update_edges: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x_out, y_out, logits, values, mean, norm, hidden = _like(x, y, update_edges)
    launch(
        "convolution",
        x,
        *_layer(graph, weights, norm_eps, eps),
        x=x,
        y=y,
        x_out=x_out,
        y_out=y_out if update_edges else None,
        logits=logits,
        values=values,
        mean=mean,
        norm=norm,
        hidden=hidden,
    )
    return x_out, y_out, logits, values, mean, norm, hidden
