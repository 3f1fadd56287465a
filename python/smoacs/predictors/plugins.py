"""Predictors that other packages register."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from smoacs.predictors.base import Predictor

GROUP = "smoacs.predictors"
"""Entry-point group; each entry point is a callable without arguments that gives a predictor."""


def plugins() -> dict[str, EntryPoint]:
    """Entry points of installed packages, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def origin(point: EntryPoint) -> str:
    """Package that registered an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def load_plugin(point: EntryPoint) -> Predictor:
    """Predictor behind an entry point.

    Raises
    ------
    ValueError
        If making it fails.
    TypeError
        If it lacks something that a predictor has.
    """
    try:
        predictor = point.load()()
    except Exception as error:
        raise ValueError(
            f"predictor {point.name!r} of {origin(point)} could not be loaded: {error!r}"
        ) from error
    if not isinstance(predictor, Predictor):
        raise TypeError(
            f"entry point {point.name!r} of {origin(point)} gave a {type(predictor).__name__}, "
            "which is no predictor (see smoacs.predictors.base.Predictor)"
        )
    return predictor
