"""Finding predictors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from smoacs.predictors.base import Predictor
from smoacs.predictors.weights import bundled, cache_dir, did_you_mean, read_card

GROUP = "smoacs.predictors"
"""Entry-point group; each entry point is a callable without arguments that gives a predictor."""


@dataclass(frozen=True)
class PredictorInfo:
    """One predictor, or one kind of predictor, that :func:`load` knows.

    Attributes
    ----------
    name : str
        What to pass to :func:`load`; capitals stand for something to fill in.
    summary : str
        What it is, in one line.
    properties : tuple of str
        Names of the properties, as far as they are known before loading.
    ready : bool
        Whether it can be loaded now: its weights are on this machine.
    """

    name: str
    summary: str
    properties: tuple[str, ...]
    ready: bool


def load(name: str | Path, device: str = "cpu") -> Predictor:
    """Load a predictor.

    Parameters
    ----------
    name : str or Path
        Name of a bundled model or of an entry point; ``alignn:FOLDER`` or ``megnet:NAME`` (see
        :func:`list_predictors`); or the path of a model in smoacs's own format.
    device : str
        Where the weights go, e.g. ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    ValueError
        If nothing has this name, or a file is damaged.
    FileNotFoundError
        If the weights are not on this machine; says where to get them and where to put them.
    """
    return _find(str(name))().to(device)


def list_predictors() -> list[PredictorInfo]:
    """Describe all predictors that can be named here."""
    return [
        *(_describe_bundled(path) for path in bundled().values()),
        *(
            PredictorInfo(point.name, f"registered by {_origin(point)}", (), True)
            for point in _entry_points().values()
        ),
        *_describe_megnet(),
        PredictorInfo(
            "alignn:FOLDER", "official ALIGNN files of either generation, folder or zip", (), True
        ),
    ]


def _find(name: str) -> Callable[[], Predictor]:
    from smoacs.predictors.alignn_predictor import ALIGNNPredictor

    scheme, colon, rest = name.partition(":")
    if colon and scheme == "alignn" and rest:
        return lambda: ALIGNNPredictor.load_official(rest)
    if colon and scheme == "megnet" and rest:
        return lambda: _load_megnet(rest)
    if name in bundled() or Path(name).suffix in (".json", ".safetensors"):
        return lambda: ALIGNNPredictor.load_bundle(name)
    points = _entry_points()
    if name in points:
        return lambda: _load_entry_point(points[name])
    known = [info.name for info in list_predictors()]
    raise ValueError(
        f"no predictor {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
    )


def _load_megnet(rest: str) -> Predictor:
    from smoacs.predictors.megnet import FIDELITIES, MEGNetPredictor

    name, at, fidelity = rest.rpartition("@")
    if at and fidelity in FIDELITIES:
        return MEGNetPredictor.load(name, fidelity=fidelity)
    return MEGNetPredictor.load(rest)


def _describe_megnet() -> list[PredictorInfo]:
    from smoacs.predictors.megnet import PUBLISHED

    return [
        PredictorInfo(
            f"megnet:{model.name}",
            "MEGNet as published with MatGL",
            (model.target.name,),
            (cache_dir() / "megnet" / model.name).is_dir(),
        )
        for model in PUBLISHED
    ]


def _describe_bundled(path: Path) -> PredictorInfo:
    card = read_card(path)
    return PredictorInfo(
        card.name,
        str(card.training.get("summary", "bundled with smoacs")),
        tuple(p.name for p in card.properties),
        path.with_suffix(".safetensors").is_file(),
    )


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _load_entry_point(point: EntryPoint) -> Predictor:
    try:
        predictor = point.load()()
    except Exception as error:
        raise ValueError(
            f"predictor {point.name!r} of {_origin(point)} could not be loaded: {error!r}"
        ) from error
    if not isinstance(predictor, Predictor):
        raise TypeError(
            f"entry point {point.name!r} of {_origin(point)} gave a {type(predictor).__name__}, "
            "which is no predictor (see smoacs.predictors.base.Predictor)"
        )
    return predictor
