"""ALIGNN, the line-graph network of Choudhary and DeCost: the network in plain torch.

Choudhary, DeCost, npj Comput. Mater. 7, 185 (2021). Both published generations are covered: the
first normalises with batch statistics, version 2.0 with layer statistics; names and shapes of the
weights are those of the official files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from smoacs.crystals import sum_by_crystal
from smoacs.ops import (
    Affine,
    ConvolutionWeights,
    Incidence,
    convolution,
    gated_messages,
    interpolate,
    norm_silu,
    pair_cosines,
    sigmoid,
)
from smoacs.predictors.layers import Linear, gaussians

_GATE_EPS = 1e-6
# All that enters the embedding of a bond is its length, of a bond pair a cosine. In single
# precision they are computed on a grid. No Gaussian of a basis reaches lengths above the largest.
_GRID_STEPS = 1024
_LARGEST_LENGTH = 10.0


@dataclass(frozen=True)
class CutoffEnvelope:
    """Polynomial that falls smoothly from 1 at zero length to 0 at ``cutoff``.

    Attributes
    ----------
    cutoff : float
        Length in Å from which the envelope is 0.
    exponent : int
        Order p of the polynomial.
    multiply : bool
        True: the envelope scales the bond features. False: its value takes the place of the bond
        length as input of the radial basis.
    """

    cutoff: float = 3.0
    exponent: int = 5
    multiply: bool = False

    def __call__(self, lengths: Tensor) -> Tensor:
        """Value at lengths (N,) in Å."""
        p, t = self.exponent, lengths / self.cutoff
        value = (
            1
            - (p + 1) * (p + 2) / 2 * t**p
            + p * (p + 2) * t ** (p + 1)
            - p * (p + 1) / 2 * t ** (p + 2)
        )
        return torch.where(lengths <= self.cutoff, value, 0.0)


@dataclass(frozen=True)
class ALIGNNConfig:
    """Shape of an ALIGNN network; the defaults are those of the first generation.

    Attributes
    ----------
    alignn_layers, gcn_layers : int
        Number of layers with and without bond pairs.
    atom_input_features, edge_input_features, triplet_input_features : int
        Length of an atom's feature vector, number of radial and of angular basis functions.
    embedding_features, hidden_features : int
        Width of the first embedding of bonds and pairs, and of all that follows.
    output_features : int
        Number of outputs per crystal.
    link : {"identity", "log", "logit"}
        Inverse of the function applied to the outputs: none, exp or the logistic function.
    norm : {"batch", "layer"}
        Normalisation of the first generation or of version 2.0.
    envelope : CutoffEnvelope or None
        Smooth cutoff of the bonds, an option of version 2.0.
    """

    alignn_layers: int = 4
    gcn_layers: int = 4
    atom_input_features: int = 92
    edge_input_features: int = 80
    triplet_input_features: int = 40
    embedding_features: int = 64
    hidden_features: int = 256
    output_features: int = 1
    link: Literal["identity", "log", "logit"] = "identity"
    norm: Literal["batch", "layer"] = "batch"
    envelope: CutoffEnvelope | None = None


class RadialBasis(nn.Module):
    """Gaussians at evenly spaced centres, as wide as ALIGNN makes them (gamma = 1 / spacing)."""

    centers: Tensor

    def __init__(self, low: float, high: float, bins: int) -> None:
        super().__init__()
        centers = torch.linspace(low, high, bins, dtype=torch.float32)
        self.register_buffer("centers", centers)
        # Mean of the single-precision spacings, as in the original: it shows in the ninth digit.
        self._gamma = 1 / float(np.diff(centers.numpy()).mean())

    def forward(self, values: Tensor) -> Tensor:
        """Expand (N,) values into (N, bins) features."""
        return gaussians(values, self.centers, self._gamma)


def _norm(kind: str, features: int) -> nn.Module:
    return nn.BatchNorm1d(features) if kind == "batch" else nn.LayerNorm(features)


class MLPLayer(nn.Module):
    """Linear map, normalisation, SiLU."""

    def __init__(self, in_features: int, out_features: int, norm: str) -> None:
        super().__init__()
        self.layer = nn.Sequential(Linear(in_features, out_features), _norm(norm, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_features) to (N, out_features)."""
        linear, norm = self.layer
        return _activate(linear(x), norm)


def _activate(x: Tensor, norm: nn.Module, residual: Tensor | None = None) -> Tensor:
    """SiLU of the normalised rows, added to the residual."""
    if isinstance(norm, nn.BatchNorm1d) and norm.training:
        activated = functional.silu(norm(x))
        return activated if residual is None else residual + activated
    affine, eps = _norm_affine(norm)
    return norm_silu(x, *affine, residual, eps=eps)


def _norm_affine(norm: nn.Module) -> tuple[Affine, float | None]:
    """Scale and shift after the standardisation of a row, and what is added to its variance."""
    if isinstance(norm, nn.LayerNorm):
        return Affine(norm.weight, norm.bias), norm.eps
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return Affine(scale, norm.bias - norm.running_mean * scale), None


class EdgeGatedGraphConv(nn.Module):
    """Edge-gated graph convolution with residuals, messages summed at the destination."""

    def __init__(self, features: int, norm: str) -> None:
        super().__init__()
        self.src_gate = Linear(features, features)
        self.dst_gate = Linear(features, features)
        self.edge_gate = Linear(features, features)
        self.bn_edges = _norm(norm, features)
        self.src_update = Linear(features, features)
        self.dst_update = Linear(features, features)
        self.bn_nodes = _norm(norm, features)

    def forward(
        self, x: Tensor, y: Tensor, edges: Incidence, *, update_edges: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Update nodes (N, F) and edges (E, F); None for the edges unless ``update_edges``."""
        if x.is_cpu and not self.training:
            weights = self._weights()
            if weights.frozen:
                return convolution(x, y, edges, weights, update_edges=update_edges)
        # The maps of the ends run on the nodes, before the gather, not on the many edges.
        m, h = gated_messages(
            self.edge_gate(y),
            self.src_gate(x),
            self.dst_gate(x),
            self.dst_update(x),
            edges,
            eps=_GATE_EPS,
        )
        x = _activate(self.src_update(x) + h, self.bn_nodes, residual=x)
        return x, _activate(m, self.bn_edges, residual=y) if update_edges else None

    def _weights(self) -> ConvolutionWeights:
        def affine(linear: Linear) -> Affine:
            return Affine(linear.weight, linear.bias)

        node_norm, norm_eps = _norm_affine(self.bn_nodes)
        edge_norm, _ = _norm_affine(self.bn_edges)
        return ConvolutionWeights(
            edge_gate=affine(self.edge_gate),
            src_gate=affine(self.src_gate),
            dst_gate=affine(self.dst_gate),
            values=affine(self.dst_update),
            update=affine(self.src_update),
            node_norm=node_norm,
            edge_norm=edge_norm,
            norm_eps=norm_eps,
            eps=_GATE_EPS,
        )


class ALIGNNConv(nn.Module):
    """Convolution on the bonds, then on the bond pairs with the bonds as nodes."""

    def __init__(self, features: int, norm: str) -> None:
        super().__init__()
        self.node_update = EdgeGatedGraphConv(features, norm)
        self.edge_update = EdgeGatedGraphConv(features, norm)


class ALIGNN(nn.Module):
    """The network: features of atoms, vectors of bonds, bonds and bond pairs in, outputs out."""

    def __init__(self, config: ALIGNNConfig) -> None:
        super().__init__()
        self.config = config
        hidden, embedding, norm = config.hidden_features, config.embedding_features, config.norm
        self.atom_embedding = MLPLayer(config.atom_input_features, hidden, norm)
        self.edge_embedding = nn.Sequential(
            RadialBasis(0.0, 8.0, config.edge_input_features),
            MLPLayer(config.edge_input_features, embedding, norm),
            MLPLayer(embedding, hidden, norm),
        )
        self.angle_embedding = nn.Sequential(
            RadialBasis(-1.0, 1.0, config.triplet_input_features),
            MLPLayer(config.triplet_input_features, embedding, norm),
            MLPLayer(embedding, hidden, norm),
        )
        self.alignn_layers = nn.ModuleList(
            ALIGNNConv(hidden, norm) for _ in range(config.alignn_layers)
        )
        self.gcn_layers = nn.ModuleList(
            EdgeGatedGraphConv(hidden, norm) for _ in range(config.gcn_layers)
        )
        self.fc = Linear(hidden, config.output_features)

    def forward(
        self,
        atom_features: Tensor,
        edge_vectors: Tensor,
        bonds: Incidence,
        pairs: Incidence | None,
        ptr: Tensor,
    ) -> Tensor:
        """Outputs of C crystals.

        Parameters
        ----------
        atom_features : Tensor (S, atom_input_features), float
        edge_vectors : Tensor (E, 3), float
            Vectors from source to destination of each bond, in Å.
        bonds : Incidence
            Bonds between atoms.
        pairs : Incidence or None
            Pairs of bonds, the first of which ends where the second begins; not needed without
            layers with bond pairs.
        ptr : Tensor (C + 1,), int64
            Offsets of the crystals' sites.

        Returns
        -------
        Tensor (C, output_features)
        """
        lengths = _norms(edge_vectors)
        x = self.atom_embedding(atom_features)
        y = self._embed_lengths(lengths)
        if pairs is not None and len(self.alignn_layers) > 0:
            z = self._embed_cosines(pair_cosines(edge_vectors, pairs))
        # What no later layer reads is not computed: pairs after the last layer with pairs, bonds
        # after the last layer of all. The weights stay, so that official files load strictly.
        for left, layer in _count_down(self.alignn_layers):
            x, y = layer.node_update(x, y, bonds, update_edges=left > 0 or self._has_gcn)
            if y is not None:
                y, z = layer.edge_update(y, z, pairs, update_edges=left > 0)
        for left, layer in _count_down(self.gcn_layers):
            x, y = layer(x, y, bonds, update_edges=left > 0)
        return self._link(self.fc(sum_by_crystal(x, ptr) / ptr.diff()[:, None]))

    @property
    def readout(self) -> Linear:
        """The last layer."""
        return self.fc

    @property
    def _has_gcn(self) -> bool:
        return len(self.gcn_layers) > 0

    def _embed_lengths(self, lengths: Tensor) -> Tensor:
        envelope = self.config.envelope
        if envelope is not None and not envelope.multiply:
            return self.edge_embedding(envelope(lengths))
        within = lengths.clamp(max=_LARGEST_LENGTH)
        features = self._embed(self.edge_embedding, within, 0.0, _LARGEST_LENGTH)
        return features if envelope is None else features * envelope(lengths)[:, None]

    def _embed_cosines(self, cosines: Tensor) -> Tensor:
        return self._embed(self.angle_embedding, cosines, -1.0, 1.0)

    def _embed(self, embedding: nn.Module, values: Tensor, low: float, high: float) -> Tensor:
        """Embedding of numbers (N,) between two bounds."""
        # Statistics over the batch are no function of one number.
        has_statistics = self.training and self.config.norm == "batch"
        if has_statistics or values.dtype != torch.float32:
            return embedding(values)
        step = (high - low) / _GRID_STEPS
        # Two steps more at each end, so that nothing is extrapolated.
        knots = torch.arange(-2, _GRID_STEPS + 3, dtype=values.dtype, device=values.device)
        return interpolate(embedding(knots * step + low), values, low=low - 2 * step, step=step)

    def _link(self, out: Tensor) -> Tensor:
        if self.config.link == "log":
            return out.exp()
        return sigmoid(out) if self.config.link == "logit" else out


def _count_down(layers: nn.ModuleList) -> Iterator[tuple[int, Any]]:
    """Layers with the number of layers left after each."""
    return zip(range(len(layers) - 1, -1, -1), layers, strict=True)


def _norms(vectors: Tensor) -> Tensor:
    """Lengths (N,) of vectors (N, 3), summed in a fixed order."""
    x, y, z = vectors.unbind(1)
    # Rows that are no bonds are zero: there the gradient would be NaN.
    return (x * x + y * y + z * z).clamp(min=1e-12).sqrt()
