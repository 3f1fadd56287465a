"""MEGNet with the weights that MatGL publishes, in plain torch.

Chen, Ye, Zuo, Zheng, Ong, Chem. Mater. 31, 3564 (2019); Chen, Zuo, Ye, Li, Ong, Nat. Comput. Sci.
1, 46 (2021) for the fidelities.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from smoacs.crystals import N_ELEMENTS, CrystalBatch
from smoacs.ops import NeighborList, sigmoid, softplus
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.download import RemoteFile, fetch
from smoacs.predictors.layers import (
    Linear,
    crystal_index,
    gaussians,
    linear,
    sum_at,
)
from smoacs.predictors.network import NetworkPredictor
from smoacs.predictors.weights import (
    as_state,
    cache_dir,
    fingerprint,
    load_strictly,
    load_torch,
    locate,
)

KIND = "megnet"

FIDELITIES = ("PBE", "GLLB-SC", "HSE", "SCAN")
"""Levels of theory of the band-gap model, in the order of its state embedding."""

ELEMENTS = tuple(z for z in range(1, 95) if not 84 <= z <= 88)
"""Atomic numbers of the rows of the node embedding: H to Pu without Po, At, Rn, Fr and Ra."""

HUGGING_FACE = "https://huggingface.co/materialyze"
GITHUB = "https://github.com/materialsvirtuallab/matgl/raw/v2.0.4/pretrained_models"
ORIGIN = (
    f"{HUGGING_FACE} or the folder pretrained_models of "
    "https://github.com/materialsvirtuallab/matgl (BSD-3; state.pt and model.json)"
)

_WIDTH = 32
_NORMALISER = re.compile(r"Mean\s*[=:]\s*(\S+?),\s*Std\s*[=:]\s*(\S+)")


@dataclass(frozen=True)
class PublishedModel:
    """A model of MatGL that smoacs knows by the fingerprint of its tensors.

    Attributes
    ----------
    name : str
    fingerprint : str
        See :func:`smoacs.predictors.weights.fingerprint`.
    target : Property
    mae : float
        Mean absolute error on the test split that its authors (energy) or we (gap) measured.
    data : str
        What it was trained on.
    set2set_iterations : int
        Rounds of attention that the weights were trained with.
    hashes : dict
        SHA-256 of its files by name.
    """

    name: str
    fingerprint: str
    target: Property
    mae: float
    data: str
    set2set_iterations: int
    hashes: Mapping[str, str]

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """Its files; weights that MatGL has put in their place since have other hashes."""
        return tuple(
            RemoteFile(
                f"{self.name}/{file}",
                (
                    f"{HUGGING_FACE}/{self.name}/resolve/main/{file}",
                    f"{GITHUB}/{self.name}/{file}",
                ),
                sha256,
            )
            for file, sha256 in self.hashes.items()
        )


PUBLISHED = (
    PublishedModel(
        "MEGNet-MP-2018.6.1-Eform",
        "c38c2d4ca803ec8e85340a8425916612845e141c8bde0ad024d6992cbb30f65a",
        Property("formation_energy", "eV/atom", -4.5, 1.3),
        mae=0.028,
        data="Materials Project 2018.6.1",
        set2set_iterations=2,
        hashes={
            "state.pt": "35381368b17a2783f9ee09af5556cf1d84b74bf786b82d3fadd4acb38c51d040",
            "model.json": "d858219134667d55e3c183435475ba248231a67311573373ed7298191f05d0a4",
        },
    ),
    # Its model.json says three iterations. With three the error is five times as large, and
    # insulators come out as metals: the weights were trained with two.
    PublishedModel(
        "MEGNet-MP-2019.4.1-BandGap-mfi",
        "f0a4f4c09af3c88c03e85a9e95082f0901ed0c70a8b5817cf23564e4d771728f",
        Property("band_gap", "eV", 0.0, 17.8),
        mae=0.10,
        data="Materials Project 2019.4.1 and experiments, four fidelities",
        set2set_iterations=2,
        hashes={
            "state.pt": "2927ab9646ec3e099a3e42b1358a3c477db7356e2413bfa540fe0106cde628f9",
            "model.json": "9f8f4b8709e97c6ce25353f6b6c322ce3b5e031c71115cf6b94d5cd794f39bc2",
        },
    ),
)


@dataclass(frozen=True)
class MEGNetConfig:
    """Shape and constants of a MEGNet.

    Attributes
    ----------
    n_elements, element_features : int
        Shape of the node embedding.
    n_states : int or None
        Number of fidelities; None: the state is a constant vector of zeros.
    state_features : int
        Length of the state vector.
    n_centers : int
        Number of Gaussians that describe a bond.
    gauss_width : float
        Factor in the exponent of the Gaussians, in 1/Å^2.
    n_blocks : int
        Number of graph blocks.
    set2set_iterations : int
        Rounds of attention in the readout.
    mean, std : float
        Undo the scaling of the target.
    """

    n_elements: int = 89
    element_features: int = 16
    n_states: int | None = None
    state_features: int = 2
    n_centers: int = 100
    gauss_width: float = 0.5
    n_blocks: int = 3
    set2set_iterations: int = 2
    mean: float = 0.0
    std: float = 1.0


class _Activation(nn.Module):
    """Softplus shifted to pass through zero."""

    def forward(self, x: Tensor) -> Tensor:
        return softplus(x) - math.log(2.0)


class _MLP(nn.Module):
    """Linear maps with activations in between, and after the last one if asked for."""

    def __init__(self, widths: Sequence[int], *, activate_last: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [Linear(n_in, n_out), _Activation()]
        self.layers = nn.ModuleList(layers if activate_last else layers[:-1])

    @property
    def first(self) -> Linear:
        """First linear map."""
        return cast(Linear, self.layers[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, widths[0]) to (N, widths[-1])."""
        return self.after_first(self.first(x))

    def after_first(self, x: Tensor) -> Tensor:
        """All but the first linear map."""
        for layer in self.layers[1:]:
            x = layer(x)
        return x

    def first_of(self, *parts: tuple[Tensor, Tensor | None]) -> Tensor:
        """First linear map of concatenated features, without concatenating them.

        Each part is a matrix and the rows of it to take, or None for all in order. The map runs
        before the rows are taken, so on the few nodes instead of the many edges.
        """
        blocks = self.first.weight.split([part.shape[1] for part, _ in parts], dim=1)
        terms = [linear(part, block) for (part, _), block in zip(parts, blocks, strict=True)]
        total: Tensor = self.first.bias
        for term, (_, rows) in zip(terms, parts, strict=True):
            total = total + (term if rows is None else term.index_select(0, rows))
        return total


@dataclass(frozen=True)
class _Incidence:
    """Who belongs to whom: ends and crystals of E edges, crystals of S atoms."""

    src: Tensor
    dst: Tensor
    edge_crystal: Tensor
    site_crystal: Tensor
    n_sites: int
    n_crystals: int


class _Convolution(nn.Module):
    """Update of edges, then atoms, then the state of each crystal."""

    def __init__(self) -> None:
        super().__init__()
        self.edge_func = _MLP([4 * _WIDTH, 64, 64, _WIDTH])
        self.node_func = _MLP([3 * _WIDTH, 64, 64, _WIDTH])
        self.state_func = _MLP([3 * _WIDTH, 64, 64, _WIDTH])

    def forward(
        self, e: Tensor, v: Tensor, u: Tensor, at: _Incidence
    ) -> tuple[Tensor, Tensor, Tensor]:
        f = self.edge_func
        e = f.after_first(f.first_of((v, at.src), (v, at.dst), (e, None), (u, at.edge_crystal)))
        # The weights were trained with means at the destination; later MatGL takes the source.
        incoming = _mean_at(e, at.dst, at.n_sites)
        f = self.node_func
        v = f.after_first(f.first_of((v, None), (incoming, None), (u, at.site_crystal)))
        mean_e = _mean_at(e, at.edge_crystal, at.n_crystals)
        mean_v = _mean_at(v, at.site_crystal, at.n_crystals)
        f = self.state_func
        return e, v, f.after_first(f.first_of((u, None), (mean_e, None), (mean_v, None)))


class _Block(nn.Module):
    """Convolution between dense layers (none in the first block) and a residual connection."""

    def __init__(self, *, dense: bool) -> None:
        super().__init__()
        self.edge_func = _MLP([_WIDTH, 64, _WIDTH]) if dense else nn.Identity()
        self.node_func = _MLP([_WIDTH, 64, _WIDTH]) if dense else nn.Identity()
        self.state_func = _MLP([_WIDTH, 64, _WIDTH]) if dense else nn.Identity()
        self.conv = _Convolution()

    def forward(
        self, e: Tensor, v: Tensor, u: Tensor, at: _Incidence
    ) -> tuple[Tensor, Tensor, Tensor]:
        new_e, new_v, new_u = self.conv(
            self.edge_func(e), self.node_func(v), self.state_func(u), at
        )
        return e + new_e, v + new_v, u + new_u


class _LSTM(nn.Module):
    """One step of a long short-term memory, with the parameter names of torch's."""

    def __init__(self, n_in: int, n_hidden: int) -> None:
        super().__init__()
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * n_hidden, n_in))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * n_hidden, n_hidden))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * n_hidden))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * n_hidden))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(n_hidden**-0.5), n_hidden**-0.5)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = linear(x, self.weight_ih_l0, self.bias_ih_l0)
        gates = gates + linear(h, self.weight_hh_l0, self.bias_hh_l0)
        write, forget, value, read = gates.chunk(4, dim=1)
        c = sigmoid(forget) * c + sigmoid(write) * torch.tanh(value)
        return sigmoid(read) * torch.tanh(c), c


class _Set2Set(nn.Module):
    """Order-free summary of a set by repeated attention (Vinyals, Bengio, Kudlur 2016)."""

    def __init__(self, width: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.lstm = _LSTM(2 * width, width)

    def forward(self, x: Tensor, owner: Tensor, n_sets: int) -> Tensor:
        """Summaries (n_sets, 2 F) of rows (N, F); an empty set gets a constant."""
        h = c = x.new_zeros(n_sets, x.shape[1])
        summary = x.new_zeros(n_sets, 2 * x.shape[1])
        for _ in range(self.iterations):
            h, c = self.lstm(summary, h, c)
            score = (x * h.index_select(0, owner)).sum(1, keepdim=True)
            # The highest score of a set only keeps exp in range; the result does not depend on it.
            highest = score.new_full((n_sets, 1), -torch.inf).scatter_reduce(
                0, owner[:, None], score.detach(), "amax"
            )
            share = torch.exp(score - highest.index_select(0, owner))
            total = sum_at(share, owner, n_sets)
            attention = share / total.index_select(0, owner)
            summary = torch.cat([h, sum_at(attention * x, owner, n_sets)], dim=1)
        return summary


class _Gaussians(nn.Module):
    """Centres of the Gaussians that describe bonds."""

    centers: Tensor

    def __init__(self, n_centers: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(0, 5, n_centers))


class _BondExpansion(nn.Module):
    """Level of the published names above the centres."""

    def __init__(self, n_centers: int) -> None:
        super().__init__()
        self.rbf = _Gaussians(n_centers)


class _Embedding(nn.Module):
    """Vectors of elements and, in a network with fidelities, of states."""

    def __init__(self, config: MEGNetConfig) -> None:
        super().__init__()
        self.layer_node_embedding = nn.Embedding(config.n_elements, config.element_features)
        if config.n_states is not None:
            self.layer_state_embedding = nn.Embedding(config.n_states, config.state_features)


class MEGNet(nn.Module):
    """The network; names and shapes of the weights are those of the published files."""

    def __init__(self, config: MEGNetConfig) -> None:
        super().__init__()
        self.config = config
        self.bond_expansion = _BondExpansion(config.n_centers)
        self.embedding = _Embedding(config)
        self.edge_encoder = _MLP([config.n_centers, 64, _WIDTH])
        self.node_encoder = _MLP([config.element_features, 64, _WIDTH])
        self.state_encoder = _MLP([config.state_features, 64, _WIDTH])
        self.blocks = nn.ModuleList(_Block(dense=number > 0) for number in range(config.n_blocks))
        self.edge_s2s = _Set2Set(_WIDTH, config.set2set_iterations)
        self.node_s2s = _Set2Set(_WIDTH, config.set2set_iterations)
        self.output_proj = _MLP([5 * _WIDTH, 32, 16, 1], activate_last=False)

    def element_table(self) -> Tensor:
        """Node embedding by atomic number, (98, F); zero for elements without one."""
        embedding = self.embedding.layer_node_embedding.weight.detach()
        table = embedding.new_zeros(N_ELEMENTS, embedding.shape[1])
        table[torch.tensor(ELEMENTS) - 1] = embedding
        return table

    def forward(
        self,
        atom_features: Tensor,
        edge_vectors: Tensor,
        neighbors: NeighborList,
        ptr: Tensor,
        state: int | None = None,
    ) -> Tensor:
        """Outputs of C crystals.

        Parameters
        ----------
        atom_features : Tensor (S, element_features), float
            Rows of the node embedding, or mixtures of them.
        edge_vectors : Tensor (E, 3), float
            In Å.
        neighbors : NeighborList
            All pairs within the cutoff, once in each direction.
        ptr : Tensor (C + 1,), int64
            Offsets of the crystals' sites.
        state : int, optional
            Number of the fidelity, for a network with fidelities.

        Returns
        -------
        Tensor (C, 1)
            NaN for a crystal without any edge.
        """
        n_sites, n_crystals = atom_features.shape[0], ptr.numel() - 1
        edge_counts = neighbors.edge_ptr.diff()
        at = _Incidence(
            src=neighbors.src,
            dst=neighbors.dst,
            edge_crystal=crystal_index(neighbors.edge_ptr, edge_vectors.shape[0]),
            site_crystal=crystal_index(ptr, n_sites),
            n_sites=n_sites,
            n_crystals=n_crystals,
        )
        x, y, z = edge_vectors.unbind(1)
        lengths = (x * x + y * y + z * z).sqrt()
        basis = gaussians(lengths, self.bond_expansion.rbf.centers, self.config.gauss_width)
        e = self.edge_encoder(basis)
        v = self.node_encoder(atom_features)
        u = self.state_encoder(self._state_vector(state)).expand(n_crystals, -1)
        for block in self.blocks:
            e, v, u = block(e, v, u, at)
        readout = torch.cat(
            [
                self.node_s2s(v, at.site_crystal, n_crystals),
                self.edge_s2s(e, at.edge_crystal, n_crystals),
                u,
            ],
            dim=1,
        )
        out = self.output_proj(readout) * self.config.std + self.config.mean
        return torch.where((edge_counts > 0)[:, None], out, torch.nan)

    def _state_vector(self, state: int | None) -> Tensor:
        if self.config.n_states is None:
            return self.state_encoder.first.weight.new_zeros(1, self.config.state_features)
        if state is None:
            raise ValueError(
                f"this MEGNet needs a state, 0 to {self.config.n_states - 1}, got none"
            )
        return self.embedding.layer_state_embedding.weight[state : state + 1]


class MEGNetPredictor(NetworkPredictor):
    """One of MatGL's MEGNet models, or one trained with MatGL.

    The prediction jumps when a pair of atoms crosses the cutoff: the network has no envelope.
    """

    network: MEGNet

    def __init__(
        self, name: str, network: MEGNet, target: Property, cutoff: float, state: int | None = None
    ) -> None:
        super().__init__(
            name,
            network,
            network.element_table(),
            properties=[target],
            # MatGL adds 1e-8 Å, which decides about pairs at exactly the cutoff.
            graph=GraphSpec(cutoff=cutoff + 1e-8),
            elements=frozenset(ELEMENTS),
            minima={"band_gap": 0.0} if target.name == "band_gap" else {},
        )
        self._state = state

    def _outputs(
        self, features: Tensor, vectors: Tensor, graph: Graph, crystals: CrystalBatch
    ) -> Tensor:
        return self.network(features, vectors, graph.neighbors, crystals.ptr, self._state)

    @classmethod
    def load(
        cls, name: str, *, fidelity: str = "PBE", target: Property | None = None
    ) -> MEGNetPredictor:
        """Load a folder with ``state.pt`` and ``model.json``.

        Parameters
        ----------
        name : str
            The folder, or a published model's name, whose files are taken from the cache, else
            downloaded.
        fidelity : {"PBE", "GLLB-SC", "HSE", "SCAN"}
            Level of theory of the band gap; ignored by models without fidelities.
        target : Property, optional
            What the model predicts; needed for models that are not MatGL's published ones.

        Raises
        ------
        FileNotFoundError
            If the folder or a file in it does not exist.
        ValueError
            If a file is damaged or describes a network of another kind, or the fidelity is
            unknown, or the target of an unpublished model is not given.
        """
        folder = _locate(name)
        for file in ("state.pt", "model.json"):
            if not (folder / file).is_file():
                raise FileNotFoundError(
                    f"no file {folder / file}: a MEGNet folder holds state.pt and model.json, "
                    f"from {ORIGIN}"
                )
        label = str(folder / "state.pt")
        content = as_state(load_torch(folder / "state.pt", label), label)
        state = {key.removeprefix("model."): value for key, value in content.items()}
        mark = fingerprint(state)
        published = next((model for model in PUBLISHED if model.fingerprint == mark), None)
        target = target or (published.target if published else None)
        if target is None:
            raise ValueError(
                f"{folder} holds none of MatGL's published MEGNet models, so its property is "
                "unknown; load it with MEGNetPredictor.load(folder, target=Property(...))"
            )
        iterations = published.set2set_iterations if published else None
        config, cutoff = _read_config(folder / "model.json", iterations)
        network = MEGNet(config)
        load_strictly(network, state, str(folder / "state.pt"))
        label = f"megnet:{published.name if published else folder.name}"
        if config.n_states is None:
            return cls(label, network, target, cutoff)
        if fidelity not in FIDELITIES[: config.n_states]:
            raise ValueError(f"fidelity must be one of {', '.join(FIDELITIES)}, got {fidelity!r}")
        label = label if fidelity == "PBE" else f"{label}@{fidelity}"
        number = FIDELITIES.index(fidelity)
        return cls(label, network, target, cutoff, number)


def _locate(name: str) -> Path:
    """Folder of a model: a path as given, else of a published model, downloaded if necessary."""
    published = {model.name: model for model in PUBLISHED}
    if Path(name).expanduser().exists() or name not in published:
        return locate(KIND, name, ORIGIN, [*published])
    for file in published[name].files:
        fetch(file, cache_dir() / KIND)
    return cache_dir() / KIND / name


def _mean_at(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Mean of the rows that share an index, zero where there are none."""
    counts = torch.bincount(index, minlength=size).clamp(min=1)
    return sum_at(values, index, size) / counts[:, None]


_FIXED_ARGUMENTS = {
    "hidden_layer_sizes_input": [64, _WIDTH],
    "hidden_layer_sizes_conv": [64, 64, _WIDTH],
    "hidden_layer_sizes_output": [32, 16],
    "nlayers_set2set": 1,
    "activation_type": "softplus2",
    "is_classification": False,
    "include_state": True,
    "element_types": None,
}


def _read_config(path: Path, set2set_iterations: int | None) -> tuple[MEGNetConfig, float]:
    """Shape of the network and its cutoff in Å, from MatGL's description."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))["kwargs"]
        arguments = described["model"]["init_args"]
        normaliser = _NORMALISER.search(str(described.get("target_transformer")))
        for key, value in _FIXED_ARGUMENTS.items():
            if arguments[key] != value:
                raise ValueError(f"{path}: {key} must be {value}, got {arguments[key]}")
        config = MEGNetConfig(
            n_elements=len(ELEMENTS),
            element_features=arguments["dim_node_embedding"],
            n_states=arguments["ntypes_state"],
            state_features=arguments["dim_state_embedding"],
            n_centers=arguments["dim_edge_embedding"],
            gauss_width=arguments["gauss_width"],
            n_blocks=arguments["nblocks"],
            set2set_iterations=set2set_iterations or arguments["niters_set2set"],
            mean=float(normaliser[1]) if normaliser else 0.0,
            std=float(normaliser[2]) if normaliser else 1.0,
        )
        return config, float(arguments["cutoff"])
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} does not describe a MEGNet of MatGL: {error!r}") from error
