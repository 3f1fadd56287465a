"""What predictors there are, without loading any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from smoacs.predictors.base import Property
from smoacs.predictors.plugins import origin, plugins
from smoacs.predictors.weights import bundled, cache_dir, read_card


@dataclass(frozen=True)
class PredictorInfo:
    """One predictor, or one kind of predictor, that :func:`smoacs.predictors.load` knows.

    Attributes
    ----------
    name : str
        What to pass to ``load``; capitals stand for something to fill in.
    where : str
        Where the weights are, or how to get them.
    properties : tuple of Property
        As far as they are known before loading.
    errors : mapping from str to float
        Mean absolute error on test crystals by property, in its unit, where known.
    data : str
        What the weights were trained on.
    licence : str
        Of the weights.
    size : int or None
        Bytes of the weights, if they are on this machine.
    ready : bool
        Whether it can be loaded now, without the network.
    """

    name: str
    where: str
    properties: tuple[Property, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    licence: str = ""
    size: int | None = None
    ready: bool = True


def list_predictors() -> list[PredictorInfo]:
    """Describe all predictors that can be named here."""
    return [
        *(_describe_bundled(path) for path in bundled().values()),
        *(
            PredictorInfo(point.name, f"registered by {origin(point)}")
            for point in plugins().values()
        ),
        *_describe_megnet(),
        *_describe_chgnet(),
        *_describe_alignn(),
        *FAMILIES,
    ]


FAMILIES = (
    PredictorInfo("megnet:FOLDER", "files of a MEGNet made with MatGL"),
    PredictorInfo("alignn:FOLDER", "official ALIGNN files of either generation, folder or zip"),
    PredictorInfo("crystalformer:FILE", "a Crystalformer's checkpoint of Lightning (.ckpt)"),
    PredictorInfo("FILE.json", "a model made by `smoacs train`"),
)
"""Predictors that are named by where their files are."""


def _describe_bundled(path: Path) -> PredictorInfo:
    card = read_card(path)
    tensors = path.with_suffix(".safetensors")
    return PredictorInfo(
        card.name,
        where="comes with smoacs",
        properties=tuple(Property(p.name, p.unit, p.low, p.high) for p in card.properties),
        errors=card.training.get("mean_absolute_error", {}).get("test", {}),
        data=str(card.training.get("origin", "")),
        licence=str(card.training.get("licence", "")),
        size=_size(tensors),
        ready=tensors.is_file(),
    )


def _describe_megnet() -> list[PredictorInfo]:
    from smoacs.predictors.megnet import HUGGING_FACE, KIND, PUBLISHED

    return [
        _describe_download(
            f"{KIND}:{model.name}",
            [cache_dir() / KIND / model.name],
            f"{HUGGING_FACE}/{model.name}",
            properties=(model.target,),
            errors={model.target.name: model.mae},
            data=model.data,
            licence="BSD-3-Clause",
        )
        for model in PUBLISHED
    ]


def _describe_chgnet() -> list[PredictorInfo]:
    from smoacs.predictors import chgnet

    package = find_spec("chgnet")
    folder = Path(package.origin).parent if package and package.origin else None
    hint = "in the chgnet package: pip install 'smoacs[chgnet]'"
    return [
        PredictorInfo(
            chgnet.KIND if version == chgnet.DEFAULT else f"{chgnet.KIND}:{version}",
            where=f"in {folder}" if folder else hint,
            properties=(chgnet.ENERGY, chgnet.FORMATION_ENERGY),
            errors={
                chgnet.ENERGY.name: model.energy_error,
                chgnet.FORMATION_ENERGY.name: chgnet.references()[version].test_error,
            },
            data=model.data,
            licence="modified BSD",
            size=_size(chgnet.weights_of(version, folder)) if folder else None,
            ready=folder is not None,
        )
        for version, model in chgnet.VERSIONS.items()
    ]


def _describe_alignn() -> list[PredictorInfo]:
    from smoacs.predictors.alignn_models import official_models
    from smoacs.predictors.alignn_predictor import KIND, places

    return [
        _describe_download(
            f"{KIND}:{model.name}",
            places(model),
            model.archive.urls[0],
            properties=(model.gives,),
            errors={} if model.mae is None else {model.gives.name: model.mae},
            data=model.data,
            licence="see Figshare",
        )
        for model in official_models().values()
        if model.usable
    ]


def _describe_download(
    name: str,
    places: list[Path],
    url: str,
    *,
    properties: tuple[Property, ...],
    errors: Mapping[str, float],
    data: str,
    licence: str,
) -> PredictorInfo:
    """Describe a model that is in one of several places or else gets downloaded."""
    here = next((place for place in places if _size(place)), None)
    return PredictorInfo(
        name,
        where=f"in {here}" if here else f"downloaded on first use from {url}",
        properties=properties,
        errors=errors,
        data=data,
        licence=licence,
        size=_size(here) if here else None,
        ready=here is not None,
    )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(_size(file) for file in path.iterdir())
    return path.stat().st_size if path.exists() else 0
