"""Crystalformer, a transformer whose atoms attend to all atoms of an infinite crystal.

Taniai, Igarashi, Suzuki, Chiba, Saito, Ushiku, Ono, ICLR 2024. Names and shapes of the weights are
those of the published files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from smoacs.crystals import N_ELEMENTS, CrystalBatch, sum_by_crystal
from smoacs.ops import NeighborList
from smoacs.predictors.base import GraphSpec
from smoacs.predictors.crystalformer_attention import Attention, attention_to
from smoacs.predictors.crystalformer_terms import ImageBox, LatticeTerms, images_in_box
from smoacs.predictors.layers import Linear, elu, linear


@dataclass(frozen=True)
class CrystalformerConfig:
    """Shape and constants of a Crystalformer; the defaults are those of the published networks.

    Attributes
    ----------
    layers, width, heads, hidden_width : int
        Number of layers, width of the atoms' vectors, attention heads, width inside the
        feed-forward parts.
    readout : tuple of int
        Widths of the hidden layers between the mean over the atoms and the outputs.
    outputs : int
        Number of outputs per crystal.
    decay_lengths : tuple of float
        Standard deviation in Å of a neutral Gaussian; layer l takes entry l modulo their number.
    least_decay : float
        Lower bound of the exponent, in units of the neutral one.
    decay_slope : float
        Slope of the exponent where it is neutral.
    radial_functions : int
        Number of Gaussians that tell distances apart.
    radial_cutoff : float
        Largest centre of these Gaussians in Å; the others divide the way from 0 evenly.
    radial_width : float
        Their standard deviation in units of their spacing.
    cutoff : float
        Images beyond this distance in Å are left out.
    box : ImageBox or None
        Which images take part, as in the published networks. None: all within the cutoff, with
        weights that fall smoothly to zero there, so that the output is a continuous function.
    """

    layers: int = 4
    width: int = 128
    heads: int = 8
    hidden_width: int = 512
    readout: tuple[int, ...] = (128,)
    outputs: int = 1
    decay_lengths: tuple[float, ...] = (1.4,)
    least_decay: float = 0.5
    decay_slope: float = 0.1
    radial_functions: int = 64
    radial_cutoff: float = 14.0
    radial_width: float = 1.0
    cutoff: float = 12.0
    box: ImageBox | None = field(default_factory=ImageBox)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of the {self.heads} heads")
        if not 0 < self.least_decay < 1:
            raise ValueError(f"least_decay must lie between 0 and 1, got {self.least_decay}")


def _fixup(config: CrystalformerConfig) -> float:
    """Factor on the first weights that makes up for the missing normalisation (T-Fixup)."""
    return 0.67 * config.layers**-0.25


class _Attention(nn.Module):
    """Attention of one layer."""

    centers: Tensor
    gauss_scale: Tensor
    atten_scale: Tensor

    def __init__(self, config: CrystalformerConfig, decay_length: float) -> None:
        super().__init__()
        self.config = config
        self.decay_length = decay_length
        width, head_width = config.width, config.width // config.heads
        self.q_proj_weight = nn.Parameter(torch.empty(width, width))
        self.k_proj_weight = nn.Parameter(torch.empty(width, width))
        self.v_proj_weight = nn.Parameter(torch.empty(width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.lattice_pos_weights = nn.Parameter(torch.empty(width))
        self.pe_dist_proj = nn.Parameter(
            torch.empty(1, config.heads, head_width, config.radial_functions)
        )
        self.out_proj = Linear(width, width)
        # Factor and shift of the exponent's argument; zero until the first training step.
        self.register_buffer("gauss_scale", torch.zeros(2))
        # Part of the published files that no published network uses.
        self.register_buffer("atten_scale", torch.zeros(1))
        spacing = config.radial_cutoff / config.radial_functions
        centers = spacing * torch.arange(1, config.radial_functions + 1)
        self.register_buffer("centers", centers, persistent=False)
        self._radial_width = config.radial_width * spacing
        self._draw_weights()

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weight = torch.stack([self._heads_last(weight, 0) for weight in weights])
        bias = self._heads_last(self.in_proj_bias.view(3, -1), 1)
        vectors = linear(x, weight.flatten(0, 2), bias.flatten())
        sums = attention(
            vectors.view(len(x), *bias.shape),
            self._decay(x, weight[0], bias[0]),
            self.pe_dist_proj[0].permute(2, 1, 0),
            self.centers,
            self._radial_width,
        )
        out_weight = self._heads_last(self.out_proj.weight, 1)
        return linear(sums.flatten(1), out_weight.flatten(1), self.out_proj.bias)

    def _heads_last(self, values: Tensor, dim: int) -> Tensor:
        """Numbers that the published weights have head by head, as the attention takes them."""
        return values.unflatten(dim, (self.config.heads, -1)).transpose(dim, dim + 1)

    def _draw_weights(self) -> None:
        config = self.config
        nn.init.xavier_uniform_(self.q_proj_weight)
        nn.init.xavier_uniform_(self.k_proj_weight)
        nn.init.xavier_uniform_(self.v_proj_weight, gain=_fixup(config))
        nn.init.normal_(self.lattice_pos_weights, std=(config.width // config.heads) ** -0.5)
        rows = self.pe_dist_proj.view(config.width, -1)
        nn.init.xavier_uniform_(rows, gain=config.radial_functions**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight, gain=_fixup(config))
        nn.init.zeros_(self.out_proj.bias)

    def _decay(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Exponent per squared distance of each atom and head, (S, H), 1/Å^2; from the queries."""
        least = self.config.least_decay
        direction = self._heads_last(self.lattice_pos_weights, 0)
        of_query = (direction[:, :, None] * weight).sum(0)
        argument = linear(x, of_query, (direction * bias).sum(0))
        if self.training and self.gauss_scale[0] <= 0:
            with torch.no_grad():
                self.gauss_scale.copy_(torch.stack([1 / argument.std(), -argument.mean()]))
        scale, shift = self.gauss_scale.unbind()
        argument = (argument + shift) * scale
        decay = 1 + (1 - least) * elu(argument * (self.config.decay_slope / (1 - least)))
        return decay / (-2 * self.decay_length**2)


class _Layer(nn.Module):
    """Attention, then a feed-forward network; both add to their input."""

    def __init__(self, config: CrystalformerConfig, decay_length: float) -> None:
        super().__init__()
        self.self_attn = _Attention(config, decay_length)
        self.linear1 = Linear(config.width, config.hidden_width)
        self.linear2 = Linear(config.hidden_width, config.width)
        for part in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(part.weight, gain=_fixup(config))
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        x = x + self.self_attn(x, attention)
        return x + self.linear2(functional.relu(self.linear1(x)))


class _Encoder(nn.Module):
    """Level of the published names above the layers."""

    def __init__(self, config: CrystalformerConfig) -> None:
        super().__init__()
        lengths = config.decay_lengths
        self.layers = nn.ModuleList(
            _Layer(config, lengths[number % len(lengths)]) for number in range(config.layers)
        )


class Crystalformer(nn.Module):
    """The network: vectors of atoms and terms of the lattice sums in, outputs out.

    New weights are drawn like those of the published networks before training (T-Fixup, Huang et
    al., ICML 2020); the scale of the exponents is set by the first batch seen in training mode.
    """

    def __init__(self, config: CrystalformerConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embeddings = nn.Linear(N_ELEMENTS, config.width, bias=False)
        self.encoder = _Encoder(config)
        # Every third place of the published files holds weights.
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((config.width, *config.readout)):
            layers += [Linear(n_in, n_out), nn.Identity(), nn.ReLU()]
        self.mlp = nn.Sequential(
            *layers, Linear((config.width, *config.readout)[-1], config.outputs)
        )
        std = config.width**-0.5 * (9 * config.layers) ** -0.25
        nn.init.normal_(self.input_embeddings.weight, std=std)

    @property
    def readout(self) -> Linear:
        """The last layer."""
        return cast("Linear", self.mlp[-1])

    def element_table(self) -> Tensor:
        """Vectors of the elements Z = 1..98, (98, width)."""
        return self.input_embeddings.weight.t()

    def graph_spec(self) -> GraphSpec:
        """Neighbours that the network needs."""
        return GraphSpec(cutoff=self.config.cutoff)

    def terms(
        self, crystals: CrystalBatch, neighbors: NeighborList, vectors: Tensor
    ) -> LatticeTerms:
        """Terms of the lattice sums, differentiable in the vectors.

        Parameters
        ----------
        crystals : CrystalBatch
        neighbors : NeighborList
            All pairs within the cutoff of the network.
        vectors : Tensor (E, 3), float
            Vectors of the edges in Å.
        """
        src, dst, config = neighbors.src, neighbors.dst, self.config
        sites = crystals.ptr, len(crystals.frac_coords)
        if config.box is None:
            return LatticeTerms.build(vectors, src, dst, *sites, cutoff=config.cutoff)
        widest = max(config.decay_lengths) / math.sqrt(config.least_decay)
        edges, reach = images_in_box(crystals, neighbors, config.box, widest)
        vectors = vectors.index_select(0, edges)
        return LatticeTerms.build(vectors, src[edges], dst[edges], *sites, reach=reach)

    def forward(self, atom_features: Tensor, terms: LatticeTerms, ptr: Tensor) -> Tensor:
        """Outputs of C crystals.

        Parameters
        ----------
        atom_features : Tensor (S, width), float
            Rows of :meth:`element_table`, or mixtures of them.
        terms : LatticeTerms
        ptr : Tensor (C + 1,), int64
            Offsets of the crystals' sites.

        Returns
        -------
        Tensor (C, outputs)
        """
        x, attention = atom_features, attention_to(terms)
        for layer in self.encoder.layers:
            x = layer(x, attention)
        return self.mlp(sum_by_crystal(x, ptr) / ptr.diff()[:, None])
