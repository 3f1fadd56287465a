"""Weight files: where they lie, whether they are whole, and the format of the bundled models.

A bundled model is two files: ``NAME.safetensors`` with the tensors and ``NAME.json``, its card.
Nothing here ever runs code from a file.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from smoacs.predictors.base import GraphSpec
from smoacs.predictors.domain import Domain
from smoacs.predictors.reliability import Reliability


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PropertyCard(_Section):
    """One output of a model, in its order; see :class:`smoacs.predictors.base.Property`.

    ``minimum`` is a physical bound, such as 0 for a band gap: predictions are clipped there.
    """

    name: str
    unit: str
    low: FiniteFloat
    high: FiniteFloat
    minimum: FiniteFloat | None = None


class ModelCard(_Section):
    """What one has to know of a bundled model.

    Attributes
    ----------
    name : str
        Name to load it by.
    architecture : dict
        ``kind`` and the fields of the network's configuration.
    graph : GraphSpec
        Graph the network was trained on.
    properties : tuple of PropertyCard
        Outputs in the network's order. The network gives them in these units: a scale used in
        training belongs into the weights of the last layer.
    elements : tuple of str
        Symbols of the elements in the training data.
    domain : Domain or None
        Limits of the training data.
    training : dict
        Data, licence, split, errors, seed and whatever else tells how the weights came about.
    sha256 : str
        Of the safetensors file.
    """

    name: str
    architecture: dict[str, Any]
    graph: GraphSpec
    properties: Annotated[tuple[PropertyCard, ...], Field(min_length=1)]
    elements: Annotated[tuple[str, ...], Field(min_length=1)]
    domain: Domain | None = None
    training: dict[str, Any]
    sha256: str


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and values of tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def cache_dir() -> Path:
    """Folder of weights that do not ship with smoacs: ``SMOACS_CACHE`` or ``~/.cache/smoacs``."""
    return Path(os.environ.get("SMOACS_CACHE") or Path.home() / ".cache" / "smoacs")


def bundled() -> dict[str, Path]:
    """Cards of the models that ship with smoacs, by name."""
    folder = Path(str(resources.files("smoacs"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def locate(kind: str, name: str, origin: str, known: Sequence[str] = ()) -> Path:
    """File or folder with weights: a path as given, or a name in the cache.

    Parameters
    ----------
    kind : str
        Sub-folder of the cache, such as ``"megnet"``.
    name : str
        Path, or name of an entry of that sub-folder.
    origin : str
        Where a user gets the weights, for the error.
    known : sequence of str
        Names that exist, to suggest instead of a misspelt one.

    Raises
    ------
    FileNotFoundError
        If there is neither; says where to get the weights and where to put them.
    """
    place = cache_dir() / kind / name
    for path in (Path(name).expanduser(), place):
        if path.exists():
            return path
    raise FileNotFoundError(
        f"no weights {name!r}{did_you_mean(name, known)}: get them from {origin} and put them at "
        f"{place}, or give the path where they are"
    )


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Hint at known names close to a name nobody knows; empty without one."""
    close = [] if name in known else get_close_matches(name, known, n=3)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def load_torch(source: Path | bytes, label: str) -> Any:
    """Content of a file that ``torch.save`` wrote, tensors and plain data only.

    Parameters
    ----------
    source : Path or bytes
        The file or what is in it.
    label : str
        Name of the file in errors.

    Raises
    ------
    ValueError
        If the file is damaged, or holds pickled code, which is never run.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        with safe_globals(_stand_ins(content)):
            return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{label} is damaged or holds pickled objects other than tensors and plain data; "
            "smoacs runs no code from weight files, so save its state dict alone"
        ) from error
    except Exception as error:  # damage shows in many ways
        raise ValueError(f"{label} is no complete torch file: {first_line(error)}") from error


class _Leftover:
    """Empty stand-in for an object that a checkpoint holds beside its weights."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _empty_dict(*_: object) -> dict[Any, Any]:
    """Stand-in for the defaultdict of an optimiser's state."""
    return {}


# What torch before 1.13 wrote along with the state of a learning-rate schedule: the schedule
# itself, its optimiser and, as getattr(schedule, name), one of its methods.
_LEFTOVERS = ("torch.optim.", "builtins.getattr")


def _stand_ins(content: bytes) -> list[Any]:
    """Harmless objects for names in a torch file, which themselves are never looked up."""
    try:
        names = get_unsafe_globals_in_checkpoint(BytesIO(content))
    except Exception:  # a damaged file, of which torch.load says more
        return []
    leftovers = [(_Leftover, name) for name in names if name.startswith(_LEFTOVERS)]
    return [dict, (_empty_dict, "collections.defaultdict"), *leftovers]


def as_state(content: Any, label: str) -> dict[str, Tensor]:
    """Check that the content of a file is a state dict: names and tensors, nothing else.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{label} holds no state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{label} holds no state dict: {key!r} is no tensor")
    return content


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], label: str) -> None:
    """Copy tensors into a network whose names and shapes must all match.

    Raises
    ------
    ValueError
        If a tensor is missing, left over, or of another shape.
    """
    expected = network.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape
    ]
    complaints = [
        f"{problem}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for problem, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", shapes),
        )
        if names
    ]
    if complaints:
        raise ValueError(f"the weights in {label} do not fit the model; {'; '.join(complaints)}")
    network.load_state_dict(state, strict=True)


def save_bundle(
    folder: Path | str,
    network: nn.Module,
    *,
    name: str,
    architecture: Mapping[str, Any],
    graph: GraphSpec,
    properties: tuple[PropertyCard, ...],
    elements: tuple[str, ...],
    training: Mapping[str, Any],
    reliability: Reliability | None = None,
) -> Path:
    """Write ``NAME.safetensors`` and ``NAME.json`` into a folder; return the card's path.

    The arguments are the fields of :class:`ModelCard`; ``reliability`` goes into both files.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = network.state_dict() | (reliability.state() if reliability else {})
    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    card = ModelCard(
        name=name,
        architecture=dict(architecture),
        graph=graph,
        properties=properties,
        elements=elements,
        domain=reliability.domain if reliability else None,
        training=dict(training),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    path = folder / f"{name}.json"
    for target, data in (
        (path.with_suffix(".safetensors"), content),
        (path, (card.model_dump_json(indent=2) + "\n").encode()),
    ):
        partial = target.with_name(target.name + ".partial")
        partial.write_bytes(data)
        os.replace(partial, target)
    return path


def read_card(path: Path) -> ModelCard:
    """Card of a bundled model.

    Raises
    ------
    ValueError
        If the file is no model card.
    """
    try:
        return ModelCard.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no smoacs model card: {error}") from error


def load_bundle(path_or_name: Path | str) -> tuple[ModelCard, dict[str, Tensor]]:
    """Card and tensors of a bundled model.

    Parameters
    ----------
    path_or_name : Path or str
        Name of a model that ships with smoacs, or path of either of a model's two files.

    Raises
    ------
    FileNotFoundError
        If one of the files does not exist.
    ValueError
        If a file is damaged or is not the one that the card describes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = bundled().get(str(path_or_name)) or Path(path_or_name).expanduser().with_suffix(".json")
    tensors = path.with_suffix(".safetensors")
    for file in (path, tensors):
        if not file.is_file():
            raise FileNotFoundError(
                f"no model file {file}; the bundled models come with the smoacs package "
                f"(reinstall it), others belong there: {path.name} and {tensors.name} side by side"
            )
    card = read_card(path)
    content = tensors.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise ValueError(
            f"{tensors} is damaged or not the file that {path.name} describes: its SHA-256 is "
            f"{found[:12]}..., not {card.sha256[:12]}...; copy both files again"
        )
    try:
        return card, load(content)
    except SafetensorError as error:
        raise ValueError(f"{tensors} is no safetensors file: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """First line of an error's message."""
    return str(error).partition("\n")[0]
