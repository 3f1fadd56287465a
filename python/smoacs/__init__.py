"""Multi-property crystal design by gradient descent under hard constraints."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module that holds it; loaded on first use, so that `import smoacs` stays cheap.
_NAMES = {
    "CrystalBatch": "smoacs.crystals",
    "Custom": "smoacs.objectives",
    "Maximize": "smoacs.objectives",
    "Minimize": "smoacs.objectives",
    "ToleranceFactor": "smoacs.objectives",
    "IonicContacts": "smoacs.objectives",
    "Window": "smoacs.objectives",
    "design": "smoacs.runs",
    "predict": "smoacs.predictors",
}
_MODULES = ("ops", "predictors", "templates")

__all__ = [  # noqa: PLE0604 - the names are those above
    "__version__",
    *_NAMES,
    *_MODULES,
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
