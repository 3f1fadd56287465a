"""CHGNet, a universal potential, as a predictor of energies.

Deng, Zhong, Jun, Riebesell, Han, Bartel, Ceder, Nat. Mach. Intell. 5, 1031 (2023). The network is
that of the chgnet package, whose wheel holds the weights; graphs and geometry are ours, so that
whole batches are differentiable in lattice, coordinates and composition.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from smoacs.chemistry.elements import atomic_number
from smoacs.crystals import N_ELEMENTS, CrystalBatch
from smoacs.ops import NeighborList, edge_vectors
from smoacs.predictors.adapter import mixed_elements
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.layers import independent_rows, linear, sum_at
from smoacs.predictors.weights import as_state, did_you_mean, load_strictly, load_torch

KIND = "chgnet"


@dataclass(frozen=True)
class PublishedModel:
    """A model in the chgnet package: its file, training data and test error in eV/atom."""

    file: str
    data: str
    energy_error: float


VERSIONS = {
    "0.3.0": PublishedModel(
        "chgnet_0.3.0_e29f68s314m37.pth.tar", "MPtrj (Materials Project relaxations, PBE)", 0.029
    ),
    "0.2.0": PublishedModel(
        "chgnet_0.2.0_e30f77s348m32.pth.tar", "MPtrj (Materials Project relaxations, PBE)", 0.030
    ),
    "r2scan": PublishedModel(
        "chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar", "MPtrj, then MP-r2SCAN", 0.0168
    ),
}
DEFAULT = "0.3.0"

ENERGY = Property("energy", "eV/atom", -math.inf, math.inf)
FORMATION_ENERGY = Property("formation_energy", "eV/atom", -4.5, 5.2)

# MPtrj, the training data, has no Po, At, Rn, Fr and Ra; no crystal with Ne was at hand for its
# elemental energy.
ELEMENTS = frozenset(range(1, 95)) - {10, *range(84, 89)}


class CHGNetPredictor:
    """A CHGNet; ``energy`` is the corrected DFT energy it was trained on.

    The negative gradient of ``energy`` times the number of sites with respect to Cartesian
    coordinates is the force on each site: the property is a potential to relax with.

    Formation energies refer to elemental energies fitted to Materials Project labels, one set per
    published model (``bench/chgnet_references.py``).

    Parameters
    ----------
    name : str
    network : nn.Module
        A ``chgnet.model.CHGNet``; gets frozen.
    elemental : Tensor (98,) or None
        Energies of the elements in eV/atom; None: no formation energy.
    """

    def __init__(self, name: str, network: Any, elemental: Tensor | None) -> None:
        if not network.is_intensive:
            raise ValueError(
                f"{name} gives energies of whole cells; smoacs takes energies per atom"
            )
        self.name = name
        self.network = _independent(network.eval().requires_grad_(False))
        self.properties: tuple[Property, ...] = (ENERGY,)
        if elemental is not None:
            self.properties += (FORMATION_ENERGY,)
        self.elements = ELEMENTS
        self.graph: GraphSpec | None = GraphSpec(
            cutoff=network.graph_converter.atom_graph_cutoff,
            line_graph=True,
            three_body_cutoff=network.graph_converter.bond_graph_cutoff,
            self_pairs=True,
        )
        self._elemental = elemental
        # A network with this bias adds it to the bonds of a crystal without bond pairs only if
        # another crystal of the batch has some.
        self._needs_pairs = any(
            layer.mlp_out.layers[-1].bias is not None for layer in network.bond_conv_layers
        )

    @classmethod
    def load(cls, version: str = DEFAULT) -> CHGNetPredictor:
        """Load a model of the chgnet package, or one that was trained with it.

        Parameters
        ----------
        version : str
            One of :data:`VERSIONS`, or the path of a file that the package's trainer wrote.

        Raises
        ------
        FileNotFoundError
            If the chgnet package is not installed.
        ValueError
            If there is no such version, or a file is damaged or holds another kind of model.
        """
        try:
            from chgnet.model.model import CHGNet
        except ImportError as error:
            raise FileNotFoundError(
                f"chgnet:{version} needs the chgnet package, which holds the weights: "
                "pip install 'smoacs[chgnet]'"
            ) from error
        path = _locate(version)
        content = load_torch(path, str(path))
        content = content.get("model", content) if isinstance(content, dict) else {}
        if not isinstance(content.get("model_args"), dict):
            raise ValueError(f"{path} holds no CHGNet: there is no model_args in it")
        arguments = dict(content["model_args"])
        arguments.setdefault("mlp_out_bias", version == "0.2.0")
        with contextlib.redirect_stdout(io.StringIO()):  # it announces itself
            network = CHGNet(**arguments)
        load_strictly(network, as_state(content.get("state_dict"), str(path)), str(path))
        name = KIND if version == DEFAULT else f"{KIND}:{version}"
        known = references().get(version)
        return cls(name, network, known.energies if known else None)

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        """Predict energies (C,) in eV/atom, NaN for a crystal with an isolated site."""
        if graph is None or graph.line is None:
            raise ValueError(f"predictor {self.name} needs a graph of its specification")
        network = self.network
        crystals = crystals.to(dtype=network.bond_embedding.weight.dtype)
        vectors = edge_vectors(crystals.frac_coords, crystals.lattice, graph.neighbors)
        owner = crystals.crystal_index
        batched = _batched_graph(network, vectors, graph, crystals.atomic_numbers, owner)
        with mixed_elements(network.atom_embedding.embedding, crystals.composition, first=1):
            energy = network._compute(batched)["e"]
        content = sum_at(crystals.composition, owner, len(crystals)) / crystals.n_sites[:, None]
        if network.composition_model is not None:
            weight = network.composition_model.fc.weight
            energy = energy + linear(content[:, : weight.shape[1]], weight)[:, 0]
        energy = torch.where(self._described(graph, crystals), energy, torch.nan)
        values = {ENERGY.name: energy}
        if self._elemental is not None:
            reference = linear(content, self._elemental.to(energy)[None])[:, 0]
            values[FORMATION_ENERGY.name] = energy - reference
        return values

    def _described(self, graph: Graph, crystals: CrystalBatch) -> Tensor:
        """Crystals about which the network can say something, (C,) bool."""
        neighbors, owner = graph.neighbors, crystals.crystal_index
        lonely = torch.bincount(neighbors.src, minlength=len(owner)) == 0
        described = torch.bincount(owner[lonely], minlength=len(crystals)) == 0
        if self._needs_pairs and graph.line is not None:
            sites = neighbors.src[graph.line.dst]
            described &= torch.bincount(owner[sites], minlength=len(crystals)) > 0
        return described

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move the weights to a device or floating-point type and return the predictor."""
        self.network.to(device=device, dtype=dtype)
        return self


def weights_of(version: str, package: Path) -> Path:
    """File with the weights of a version, below the folder of the chgnet package."""
    return package / "pretrained" / version / VERSIONS[version].file


def _locate(version: str) -> Path:
    if version in VERSIONS:
        return weights_of(version, Path(str(resources.files("chgnet"))))
    path = Path(version).expanduser()
    if not path.is_file():
        raise ValueError(
            f"no CHGNet {version!r}{did_you_mean(version, [*VERSIONS])}; there are "
            f"{', '.join(VERSIONS)}, or give the path of a file"
        )
    return path


@dataclass(frozen=True)
class References:
    """Elemental energies that a model's formation energies refer to.

    Attributes
    ----------
    energies : Tensor (98,), float64
        In eV/atom; zero for elements without one.
    test_error : float
        Mean absolute error of the formation energy on the Materials Project test split, eV/atom.
    """

    energies: Tensor
    test_error: float


@cache
def references() -> dict[str, References]:
    """Elemental energies by version."""
    text = (resources.files("smoacs.predictors") / "data" / "chgnet_references.json").read_text()
    tables = {}
    for version, table in json.loads(text).items():
        energies = torch.zeros(N_ELEMENTS, dtype=torch.float64)
        for symbol, energy in table["energies"].items():
            energies[atomic_number(symbol) - 1] = energy
        tables[version] = References(energies, table["test_error"])
    return tables


def _batched_graph(
    network: Any, vectors: Tensor, graph: Graph, atomic_numbers: Tensor, owner: Tensor
) -> Any:
    """Features and indices as the network wants them."""
    from chgnet.model.model import BatchedGraph

    assert graph.line is not None
    neighbors = graph.neighbors
    bonds = _bonds(neighbors)
    lengths = vectors.norm(dim=1)
    directions = vectors / lengths[:, None]
    basis = network.bond_basis_expansion
    bond_lengths = lengths.index_select(0, bonds.edge)
    # A pair of the line graph goes into a site and out of it; CHGNet's pairs both go out.
    first, second = bonds.reverse[graph.line.src], graph.line.dst
    angles = first != second
    first, second = first[angles], second[angles]
    return BatchedGraph(
        atomic_numbers=atomic_numbers,
        bond_bases_ag=basis.rbf_expansion_ag(bond_lengths),
        bond_bases_bg=basis.rbf_expansion_bg(bond_lengths),
        angle_bases=network.angle_basis_expansion(
            directions.index_select(0, first), directions.index_select(0, second)
        ),
        batched_atom_graph=torch.stack([neighbors.src, neighbors.dst], dim=1),
        batched_bond_graph=torch.stack(
            [neighbors.src[second], bonds.of_edge[first], bonds.of_edge[second]], dim=1
        ),
        atom_owners=owner,
        directed2undirected=bonds.of_edge,
        atom_positions=(),
        strains=(),
        volumes=(),
    )


class _Envelope(nn.Module):
    """Smooth cutoff; with products, since torch rounds powers differently in other batches."""

    def __init__(self, cutoff: float, exponent: int) -> None:
        super().__init__()
        self.cutoff, self.exponent = cutoff, exponent

    def forward(self, lengths: Tensor) -> Tensor:
        p, t = self.exponent, lengths / self.cutoff
        power = math.prod([t] * p)
        value = 1 - power * ((p + 1) * (p + 2) / 2 - p * (p + 2) * t + p * (p + 1) / 2 * t * t)
        return torch.where(t < 1, value, 0.0)


def _independent(network: Any) -> Any:
    """Make each crystal's numbers independent of its batch to the last bit."""
    basis = network.bond_basis_expansion
    for rbf in (basis.rbf_expansion_ag, basis.rbf_expansion_bg):
        rbf.smooth_cutoff = _Envelope(rbf.smooth_cutoff.cutoff, rbf.smooth_cutoff.p)
    return independent_rows(network)


@dataclass(frozen=True)
class _Bonds:
    """Edges of a neighbour list, two and two: there and back.

    Attributes
    ----------
    reverse : Tensor (E,), int64
        Edge that leads back; the edge itself where rounding at the cutoff has lost that one, which
        weighs nothing there.
    edge : Tensor (B,), int64
        One edge of each bond.
    of_edge : Tensor (E,), int64
        Bond of each edge.
    """

    reverse: Tensor
    edge: Tensor
    of_edge: Tensor


def _bonds(neighbors: NeighborList) -> _Bonds:
    src, dst, shift = neighbors.src, neighbors.dst, neighbors.shift.long()
    itself = torch.arange(len(src), device=src.device)
    if len(src) == 0:
        return _Bonds(itself, itself, itself)
    reach = shift.abs().max()
    n_sites = torch.maximum(src.max(), dst.max()) + 1

    def key(a: Tensor, b: Tensor, image: Tensor) -> Tensor:
        number = a * n_sites + b
        for axis in image.unbind(1):
            number = number * (2 * reach + 1) + axis + reach
        return number

    there, back = key(src, dst, shift), key(dst, src, -shift)
    ordered, order = there.sort()
    place = torch.searchsorted(ordered, back).clamp(max=len(src) - 1)
    reverse = torch.where(ordered[place] == back, order[place], itself)
    edge, of_edge = torch.minimum(itself, reverse).unique(return_inverse=True)
    return _Bonds(reverse, edge, of_edge)
