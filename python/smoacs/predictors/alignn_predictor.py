"""ALIGNN as a predictor: bundled models and the official files of both generations."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from smoacs.crystals import N_ELEMENTS, CrystalBatch
from smoacs.predictors.alignn import ALIGNN, ALIGNNConfig, CutoffEnvelope
from smoacs.predictors.alignn_models import (
    TARGETS,
    OfficialModel,
    find_model,
    named_property,
    official_models,
)
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.predictors.download import fetch
from smoacs.predictors.element_features import cgcnn_table
from smoacs.predictors.network import BundledPredictor
from smoacs.predictors.weights import (
    as_state,
    cache_dir,
    load_strictly,
    load_torch,
    locate,
)

KIND = "alignn"

ORIGIN = "Figshare (one zip per model; `smoacs predictors alignn` names them)"

_FIRST_GENERATION = "alignn"
_SECOND_GENERATION = "alignn_atomwise_pure"


class ALIGNNPredictor(BundledPredictor):
    """ALIGNN on the 92 CGCNN features of (mixtures of) elements."""

    kind: ClassVar[str] = KIND
    network: ALIGNN

    def __init__(
        self,
        name: str,
        network: ALIGNN,
        *,
        properties: Sequence[Property],
        graph: GraphSpec,
        elements: frozenset[int],
        minima: Mapping[str, float],
    ) -> None:
        table = cgcnn_table()
        if network.config.atom_input_features != table.shape[1]:
            raise ValueError(
                f"{name} takes {network.config.atom_input_features} features per atom; "
                f"smoacs has the {table.shape[1]} of CGCNN"
            )
        super().__init__(
            name,
            network,
            table,
            properties=properties,
            graph=graph,
            elements=elements,
            minima=minima,
        )

    def _outputs(
        self, features: Tensor, vectors: Tensor, graph: Graph, crystals: CrystalBatch
    ) -> Tensor:
        bonds = graph.bonds(len(features))
        return self.network(features, vectors, bonds, graph.pairs, crystals.ptr)

    @classmethod
    def _build(cls, arguments: dict[str, Any]) -> ALIGNN:
        envelope = arguments.pop("envelope", None)
        return ALIGNN(
            ALIGNNConfig(
                **arguments, envelope=None if envelope is None else CutoffEnvelope(**envelope)
            )
        )

    @classmethod
    def load_official(cls, name: str) -> ALIGNNPredictor:
        """Load files of the alignn package, of the first generation or of version 2.0.

        Parameters
        ----------
        name : str
            Folder or zip file with ``config.json`` and ``best_model.pt`` or ``checkpoint_*.pt``;
            or a published name, see :func:`smoacs.predictors.alignn_models.official_models`, whose
            files are taken from the cache of smoacs or of the alignn package, else downloaded.

        Raises
        ------
        FileNotFoundError
            If there is no such file, and none can be downloaded.
        ValueError
            If a file is damaged, or the model is no network from crystals to single numbers.
        """
        official, path = _locate(name)
        files = dict(_files(path))
        config = _read_json(files, path)
        model = config.get("model")
        if not isinstance(model, dict):
            raise ValueError(f"config.json in {path} describes no model")
        network_config = _official_config(model, path)
        network = ALIGNN(network_config)
        load_strictly(network, _read_state(files, path), str(path))
        target = _target(str(config.get("target", "")), official, path)
        return cls(
            f"{KIND}:{official.name if official else path.stem}",
            network,
            properties=[target],
            graph=_official_graph(config, network_config, path),
            elements=frozenset(range(1, N_ELEMENTS + 1)),
            minima={"band_gap": 0.0} if target.name == "band_gap" else {},
        )


def _locate(name: str) -> tuple[OfficialModel | None, Path]:
    """Files of a model: a path as given, else of an official model, downloaded if necessary."""
    if Path(name).expanduser().exists():
        return None, Path(name).expanduser()
    official = find_model(name)
    if official is None:
        return None, locate(KIND, name, ORIGIN, [*official_models()])
    if not official.usable:
        what = f"of kind {official.kind!r}" if official.kind != "property" else "of spectra"
        raise ValueError(
            f"{KIND}:{name} is a model {what} with {official.outputs} outputs; smoacs loads models "
            "that give one number per crystal"
        )
    here = next((place for place in places(official) if place.exists()), None)
    return official, here or fetch(official.archive, cache_dir() / KIND)


def places(model: OfficialModel) -> list[Path]:
    """Where the files of a published model may be: smoacs's cache and the alignn package's own."""
    folder = cache_dir() / KIND
    shared = Path(os.environ.get("ATOMGPTLAB_CACHE") or Path.home() / ".cache" / "atomgptlab")
    return [
        folder / model.name,
        folder / model.archive.path,
        Path.home() / ".alignn2_models" / model.name,
        shared / "alignn_models" / model.archive.path,
    ]


def _target(target: str, official: OfficialModel | None, path: Path) -> Property:
    """What the model gives; a file that says otherwise than the registry is not that model."""
    if official is None:
        return named_property(target, path.stem)
    if target.lower() in TARGETS and TARGETS[target.lower()].name != official.gives.name:
        raise ValueError(
            f"{path} predicts {target!r}, so it is not {official.name}, which predicts "
            f"{official.target!r}; delete it, and the right one is downloaded"
        )
    return official.gives


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Description and weight files of a folder or zip, by their names in it."""
    wanted = ("config.json", "best_model.pt", "checkpoint_")
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and any(part in file.name for part in wanted):
                yield file.relative_to(path).as_posix(), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if any(part in name for part in wanted):
                    yield name, archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is neither a folder nor a complete zip file") from error


def _read_json(files: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    name = next((name for name in files if "config.json" in name), None)
    if name is None:
        raise FileNotFoundError(
            f"no config.json in {path}; an official ALIGNN model holds it beside the weights, "
            f"get the zip from {ORIGIN}"
        )
    try:
        return dict(json.loads(files[name]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} in {path} is no JSON object: {error}") from error


def _read_state(files: Mapping[str, bytes], path: Path) -> dict[str, Tensor]:
    names = [
        name
        for name in files
        if "best_model.pt" in name or ("checkpoint_" in name and "pt" in name)
    ]
    if not names:
        raise FileNotFoundError(
            f"no best_model.pt or checkpoint_*.pt in {path}; get the zip from {ORIGIN}"
        )
    # The official loader takes the last one; a checkpoint keeps the weights among other things.
    content = load_torch(files[names[-1]], f"{names[-1]} in {path}")
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    # A table for force fields on atomic numbers plays no part in properties.
    state = dict(as_state(content, f"{names[-1]} in {path}"))
    state.pop("_species_table", None)
    # With a logarithmic link the original sets the last bias to a number without dimension.
    if "fc.bias" in state:
        state["fc.bias"] = state["fc.bias"].reshape(-1)
    return state


_REFUSED = {
    "classification": "a classifier",
    "extra_features": "a model with extra features of the crystal",
    "atomwise_output_features": "a model of single atoms",
    "additional_output_features": "a model with additional outputs",
}


def _official_config(model: dict[str, Any], path: Path) -> ALIGNNConfig:
    kind = model.get("name")
    if kind not in (_FIRST_GENERATION, _SECOND_GENERATION):
        raise ValueError(
            f"{path} holds a model of kind {kind!r}; smoacs loads {_FIRST_GENERATION!r} and "
            f"{_SECOND_GENERATION!r}"
        )
    for key, what in _REFUSED.items():
        if model.get(key):
            raise ValueError(f"{path} holds {what}, which gives no property of a crystal")
    if model.get("output_features", 1) != 1:
        raise ValueError(
            f"{path} gives {model['output_features']} numbers per crystal; smoacs takes models of "
            "one number"
        )
    second = kind == _SECOND_GENERATION
    if second:
        if (conv := model.get("conv_type", "alignn")) != "alignn":
            raise ValueError(f"{path} uses convolutions of type {conv!r}; smoacs knows 'alignn'")
        # The original turns gradients off where forces have no weight.
        if model.get("calculate_gradient", True) and model.get("gradwise_weight", 1.0) != 0:
            raise ValueError(f"{path} holds a force field; smoacs loads models of properties")
    envelope = None
    if second and model.get("use_cutoff_function"):
        envelope = CutoffEnvelope(
            cutoff=model.get("inner_cutoff", 3.0),
            exponent=model.get("exponent", 5),
            multiply=model.get("multiply_cutoff", False),
        )
    # Where a file is silent, each generation has its own defaults.
    defaults = dict.fromkeys(("alignn_layers", "gcn_layers"), 2 if second else 4)
    defaults |= {"hidden_features": 64 if second else 256}
    defaults |= {"atom_input_features": 1 if second else 92}
    shared = {field.name for field in fields(ALIGNNConfig)} - {"norm", "envelope"}
    arguments = defaults | {key: value for key, value in model.items() if key in shared}
    return ALIGNNConfig(**arguments, norm="layer" if second else "batch", envelope=envelope)


def _official_graph(config: dict[str, Any], network: ALIGNNConfig, path: Path) -> GraphSpec:
    if (features := config.get("atom_features", "cgcnn")) != "cgcnn":
        raise ValueError(f"{path} takes atom features {features!r}; smoacs has 'cgcnn'")
    cutoff = float(config.get("cutoff", 8.0))
    k = int(config.get("max_neighbors") or 12)
    strategy = config.get("neighbor_strategy", "k-nearest")
    if network.norm == "batch":
        if strategy != "k-nearest":
            raise ValueError(f"{path} was trained on {strategy!r} graphs; smoacs has 'k-nearest'")
        return GraphSpec(cutoff, k, "knn_shell", tie_tolerance=0.0, line_graph=True)
    three_body = config.get("three_body_cutoff")
    three_body = 3.5 if three_body is None else float(three_body)
    return GraphSpec(
        cutoff,
        k,
        "knn",
        tie_tolerance=1e-5,
        line_graph=True,
        three_body_cutoff=three_body if three_body < cutoff else None,
        self_pairs=True,
    )
