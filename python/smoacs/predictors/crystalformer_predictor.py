"""Crystalformer as a predictor: bundled models and the published checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.crystalformer import Crystalformer, CrystalformerConfig
from smoacs.predictors.crystalformer_terms import ImageBox
from smoacs.predictors.lightning import load_lightning
from smoacs.predictors.megnet import ELEMENTS
from smoacs.predictors.network import BundledPredictor
from smoacs.predictors.weights import load_strictly, locate

KIND = "crystalformer"

ORIGIN = (
    "the Google Drive folder that https://github.com/omron-sinicx/crystalformer names (MIT): "
    "megnet-bandgap-layer4.ckpt and its like"
)

# The published networks learned the labels of the MEGNet dataset, Materials Project 2018.6.1.
_TARGETS = {
    "bandgap": Property("band_gap", "eV", 0.0, 17.8),
    "e_form": Property("formation_energy", "eV/atom", -4.5, 1.3),
}

_SWA, _LAST = "swa_model.module.", "model."


class CrystalformerPredictor(BundledPredictor):
    """Crystalformer on (mixtures of) its element embeddings."""

    kind: ClassVar[str] = KIND
    network: Crystalformer

    def __init__(
        self,
        name: str,
        network: Crystalformer,
        *,
        properties: Sequence[Property],
        graph: GraphSpec,
        elements: frozenset[int],
        minima: Mapping[str, float],
    ) -> None:
        if graph.rule != "radius" or graph.cutoff < network.config.cutoff:
            raise ValueError(
                f"{name} needs all neighbours within {network.config.cutoff} Å, not {graph}"
            )
        super().__init__(
            name,
            network,
            network.element_table().detach(),
            properties=properties,
            graph=graph,
            elements=elements,
            minima=minima,
        )

    def _outputs(
        self, features: Tensor, vectors: Tensor, graph: Graph, crystals: CrystalBatch
    ) -> Tensor:
        terms = self.network.terms(crystals, graph.neighbors, vectors)
        return self.network(features, terms, crystals.ptr)

    @classmethod
    def _build(cls, arguments: dict[str, Any]) -> Crystalformer:
        box = arguments.pop("box")
        lists = ("readout", "decay_lengths")
        arguments |= {key: tuple(arguments[key]) for key in lists}
        return Crystalformer(
            CrystalformerConfig(**arguments, box=None if box is None else ImageBox(**box))
        )

    @classmethod
    def load_official(
        cls, name: str, *, fixed_images: bool = False, target: Property | None = None
    ) -> CrystalformerPredictor:
        """Load a checkpoint of the original code.

        Settings are read from ``FILE.json`` or ``default.json`` beside it, in the format of the
        original's parameter files; without either they are those of the published networks. The
        number of layers comes from the weights.

        Parameters
        ----------
        name : str
            The ``.ckpt`` file, or a name that is looked for in the cache.
        fixed_images : bool
            Sum over five images along each lattice vector, as the original does without CUDA and
            as SMOACS did, instead of as many as the Gaussians need, as in training.
        target : Property, optional
            What the model predicts; needed where neither ``bandgap`` nor ``e_form`` is part of the
            file's name.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If a file is damaged or describes another network, or the target is unknown.
        """
        path = locate(KIND, name, ORIGIN)
        target = target or next((t for key, t in _TARGETS.items() if key in path.stem), None)
        if target is None:
            raise ValueError(
                f"the name of {path.name} does not say what it predicts ({' or '.join(_TARGETS)}); "
                "load it with CrystalformerPredictor.load_official(file, target=Property(...))"
            )
        state = _network_state(load_lightning(path), path)
        config = _official_config(path, state)
        if fixed_images and config.box is not None:
            config = replace(config, box=replace(config.box, sigmas=None))
        network = Crystalformer(config)
        load_strictly(network, state, str(path))
        return cls(
            f"{KIND}:{path.stem}{'@fixed' if fixed_images else ''}",
            network,
            properties=[target],
            graph=network.graph_spec(),
            elements=frozenset(ELEMENTS),
            minima={"band_gap": 0.0} if target.name == "band_gap" else {},
        )


def _network_state(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights of the network alone, averaged where there is an average, in the target's unit."""
    prefix = _SWA if any(key.startswith(_SWA) for key in state) else _LAST
    network = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not network:
        raise ValueError(f"{path} holds no Crystalformer: no tensor is named {_SWA}* or {_LAST}*")
    last = max((k for k in network if re.fullmatch(r"mlp\.\d+\.weight", k)), key=_place, default="")
    bias = last.replace("weight", "bias")
    if "target_std" in state and last and bias in network:
        std, mean = state["target_std"], state["target_mean"]
        network[last] = network[last] * std[:, None]
        network[bias] = network[bias] * std + mean
    for key in [k for k in network if k.endswith("gauss_scale")]:
        if not network[key][0] > 0:
            raise ValueError(f"{path} holds a network that was never trained: {key} is not set")
    return network


def _place(key: str) -> int:
    """Place of a tensor of the readout or the layers."""
    return int(key.split(".")[1])


# What every network that smoacs knows has in common, as the original's parameter files say it.
_FIXED = {
    "t_fixup_init": True,
    "norm_type": "no",
    "pooling": "avr",
    "pre_pooling_op": "no",
    "domain": "real",
    "gauss_state": "q",
    "normalize_gauss": True,
    "value_pe_headed": True,
    "value_pe_condproj": "no",
    "value_pe_wave_real": 0,
    "exclude_self": False,
    "norm_func_mode": 0,
    "use_cgcnn_feat": False,
    "minimum_range": True,
    "k_dim": 0,
    "v_dim": 0,
}


def _official_config(path: Path, state: Mapping[str, Tensor]) -> CrystalformerConfig:
    files = (path.with_suffix(".json"), path.with_name("default.json"))
    file = next((file for file in files if file.is_file()), None)
    try:
        given = json.loads(file.read_text(encoding="utf-8")) if file else {}
        for key, value in _FIXED.items():
            if given.get(key, value) != value:
                raise ValueError(f"{file}: {key} must be {value}, got {given[key]}")
        return _config_of(given, state)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{file or path} does not describe a Crystalformer: {e!r}") from e


def _config_of(given: Mapping[str, Any], state: Mapping[str, Tensor]) -> CrystalformerConfig:
    """Shape from the weights, constants from the parameter file where it has them."""
    default = CrystalformerConfig()
    _, heads, _, functions = state["encoder.layers.0.self_attn.pe_dist_proj"].shape
    hidden, width = state["encoder.layers.0.linear1.weight"].shape
    layers = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layers."))
    readout = sorted((k for k in state if re.fullmatch(r"mlp\.\d+\.weight", k)), key=_place)
    decay_lengths = given.get("scale_real", default.decay_lengths)
    decay_lengths = decay_lengths if isinstance(decay_lengths, list | tuple) else [decay_lengths]
    form, _, slope = str(given.get("positive_func", "elu=0.1")).partition("=")
    if form != "elu":
        raise ValueError(f"positive_func must be elu=NUMBER, got {given['positive_func']}")
    reach = float(given.get("value_pe_dist_max", -10.0))
    sigmas = -float(given.get("adaptive_cutoff_sigma", -3.5))
    if sigmas < 0:
        raise ValueError("adaptive_cutoff_sigma must not be positive: such networks are not known")
    return CrystalformerConfig(
        layers=layers,
        width=width,
        heads=heads,
        hidden_width=hidden,
        readout=tuple(len(state[key]) for key in readout[:-1]),
        outputs=len(state[readout[-1]]),
        decay_lengths=tuple(float(length) for length in decay_lengths),
        least_decay=float(given.get("gauss_lb_real", default.least_decay)),
        decay_slope=float(slope or 1.0),
        radial_functions=functions,
        radial_cutoff=reach if reach > 0 else -reach * float(decay_lengths[0]),
        radial_width=float(given.get("value_pe_width_scale", default.radial_width)),
        box=ImageBox(int(given.get("lattice_range", 2)), sigmas or None),
    )
