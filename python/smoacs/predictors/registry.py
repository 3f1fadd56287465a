"""Finding predictors by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from smoacs.predictors.base import Predictor
from smoacs.predictors.catalogue import list_predictors
from smoacs.predictors.plugins import load_plugin, plugins
from smoacs.predictors.selected import Selected
from smoacs.predictors.weights import bundled, did_you_mean, load_bundle


def load(name: str | Path, device: str = "cpu") -> Predictor:
    """Load a predictor.

    Parameters
    ----------
    name : str or Path
        Name of a bundled model or of an entry point; ``alignn:NAME``, ``megnet:NAME`` or the same
        with a folder; ``crystalformer:FILE``; ``chgnet[:VERSION]``; or the path of a model in
        smoacs's own format. See :func:`list_predictors`. Weights that are not on this machine are
        downloaded. ``NAME[PROPERTY,PROPERTY]`` gives these properties only.
    device : str
        Where the weights go, e.g. ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    ValueError
        If nothing has this name, it lacks a property, or a file is damaged.
    FileNotFoundError
        If the weights are not on this machine and cannot be downloaded, or may not, because
        ``SMOACS_OFFLINE`` is set; says where to get them and where to put them.
    """
    model, properties = split_properties(str(name))
    predictor = _find(model)().to(device)
    return Selected(predictor, {p: p for p in properties}) if properties else predictor


def split_properties(name: str) -> tuple[str, list[str]]:
    """The name of a model, and the properties in brackets behind it, if any."""
    selected = re.fullmatch(r"(.+)\[([\w, ]+)\]", name)
    if not selected:
        return name, []
    return selected[1], [part.strip() for part in selected[2].split(",")]


def _find(name: str) -> Callable[[], Predictor]:
    family, colon, rest = name.partition(":")
    if colon and rest and family in _FAMILIES:
        return lambda: _FAMILIES[family](rest)
    if name == "chgnet":
        return _load_chgnet
    if name in bundled() or Path(name).suffix in (".json", ".safetensors"):
        return lambda: _load_bundle(name)
    registered = plugins()
    if name in registered:
        return lambda: load_plugin(registered[name])
    known = [info.name for info in list_predictors()]
    shown = [*bundled(), *registered, *(f"{family}:NAME" for family in _FAMILIES)]
    raise ValueError(
        f"no predictor {name!r}{did_you_mean(name, known)}; there are {', '.join(shown)} "
        "(`smoacs predictors` lists them)"
    )


def _load_bundle(name: str) -> Predictor:
    from smoacs.predictors.alignn_predictor import ALIGNNPredictor
    from smoacs.predictors.crystalformer_predictor import CrystalformerPredictor

    card, state = load_bundle(name)
    families = {family.kind: family for family in (ALIGNNPredictor, CrystalformerPredictor)}
    kind = str(card.architecture.get("kind"))
    if kind not in families:
        raise ValueError(
            f"model {card.name} is of kind {kind!r}; smoacs loads {', '.join(families)}"
        )
    return families[kind].from_bundle(card, state)


def _load_alignn(rest: str) -> Predictor:
    from smoacs.predictors.alignn_predictor import ALIGNNPredictor

    return ALIGNNPredictor.load_official(rest)


def _load_megnet(rest: str) -> Predictor:
    from smoacs.predictors.megnet import FIDELITIES, MEGNetPredictor

    name, at, fidelity = rest.rpartition("@")
    if at and fidelity in FIDELITIES:
        return MEGNetPredictor.load(name, fidelity=fidelity)
    return MEGNetPredictor.load(rest)


def _load_crystalformer(rest: str) -> Predictor:
    from smoacs.predictors.crystalformer_predictor import CrystalformerPredictor

    name = rest.removesuffix("@fixed")
    return CrystalformerPredictor.load_official(name, fixed_images=name != rest)


def _load_chgnet(version: str | None = None) -> Predictor:
    from smoacs.predictors.chgnet import DEFAULT, CHGNetPredictor

    return CHGNetPredictor.load(version or DEFAULT)


_FAMILIES: dict[str, Callable[[str], Predictor]] = {
    "alignn": _load_alignn,
    "chgnet": _load_chgnet,
    "crystalformer": _load_crystalformer,
    "megnet": _load_megnet,
}
