"""How the command line shows what predictors there are; fits a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from smoacs.predictors.base import Property
from smoacs.predictors.catalogue import PredictorInfo

_WIDTH = 80
_INDENT = "  "


def listing(infos: Sequence[PredictorInfo], word: str | None) -> Iterator[str]:
    """Lines about the predictors whose name or a property's name contains a word.

    Without a word, official ALIGNN models that would have to be downloaded are only counted.

    Raises
    ------
    ValueError
        If there is none.
    """
    if word is None:
        distant = [info for info in infos if info.name.startswith("alignn:") and not info.ready]
        yield from _blocks([info for info in infos if info not in distant])
        yield f"and {len(distant)} official ALIGNN models: `smoacs predictors alignn` or, by"
        yield "property, e.g. `smoacs predictors bulk_modulus`"
        return
    found = [info for info in infos if _matches(info, word.lower())]
    if not found:
        raise ValueError(f"no predictor and no property has {word!r} in its name")
    yield from _blocks(found)


def _matches(info: PredictorInfo, word: str) -> bool:
    return any(word in name.lower() for name in (info.name, *(p.name for p in info.properties)))


def _blocks(infos: Sequence[PredictorInfo]) -> Iterator[str]:
    for info in infos:
        if info.properties:
            yield f"{info.name}  ({_state(info)})"
            for prop in info.properties:
                yield from _wrapped(_property(prop, info))
            for label, text in (("data", info.data), ("licence", info.licence)):
                yield from _wrapped(f"{label}: {text or 'not stated'}")
            yield from _wrapped(f"weights: {info.where}")
        else:
            yield info.name
            yield from _wrapped(info.where)
        yield ""


def _state(info: PredictorInfo) -> str:
    if not info.ready:
        return "not here"
    return f"ready, {_bytes(info.size)}" if info.size else "ready"


def _property(prop: Property, info: PredictorInfo) -> str:
    text = f"{prop.name} ({prop.unit})" if prop.unit else prop.name
    error = info.errors.get(prop.name)
    return text if error is None else f"{text}, test MAE {error:.3g}"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=2 * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
