"""Predictors of crystal properties: what one is, how to find one, how to ask one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Public name -> where it is; loaded on first use, so that importing a submodule stays cheap.
_NAMES = {
    "Graph": ("base", "Graph"),
    "GraphSpec": ("base", "GraphSpec"),
    "ModulePredictor": ("adapter", "ModulePredictor"),
    "Predictor": ("base", "Predictor"),
    "PredictorInfo": ("catalogue", "PredictorInfo"),
    "Property": ("base", "Property"),
    "SoftElements": ("adapter", "SoftElements"),
    "list": ("catalogue", "list_predictors"),
    "load": ("registry", "load"),
    "predict": ("prediction", "predict"),
}

__all__ = [*_NAMES]  # noqa: PLE0604 - the names are those above


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _NAMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
