"""Options of the ``smoacs design`` commands, and the objectives that they ask for."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from functools import wraps
from math import inf
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typer import Option

_STANDARD_CRITERIA = ("formation_energy", "tolerance_factor", "contact_strain")


@dataclasses.dataclass(kw_only=True)
class DesignOptions:
    """Options of all ``smoacs design`` commands."""

    out: Annotated[Path, Option(help="New folder for all results.", metavar="DIR")]
    band_gap: Annotated[float | None, Option(help="Target band gap in eV.")] = None
    band_gap_margin: Annotated[float, Option(help="Success within target ± margin, eV.")] = 0.2
    formation_energy_below: Annotated[
        float, Option(help="Success with a formation energy below, eV/atom.")
    ] = -0.5
    window: Annotated[
        list[str] | None, Option(help="Another target property.", metavar="NAME=TARGET:MARGIN")
    ] = None
    minimize: Annotated[
        list[str] | None, Option(help="Lower a property; success below.", metavar="NAME=LIMIT")
    ] = None
    maximize: Annotated[
        list[str] | None, Option(help="Raise a property; success above.", metavar="NAME=LIMIT")
    ] = None
    without: Annotated[
        list[str] | None,
        Option(help=f"Drop a standard criterion: {', '.join(_STANDARD_CRITERIA)}.", metavar="NAME"),
    ] = None
    predictor: Annotated[
        str | None,
        Option(
            help="Models that judge, see `smoacs predictors`; else both bundled families.",
            metavar="NAME[,NAME]",
        ),
    ] = None
    candidates: Annotated[int, Option(help="Number of candidates.")] = 256
    steps: Annotated[int, Option(help="Number of optimisation steps.")] = 200
    seed: Annotated[int, Option(help="Same seed, same result.")] = 0
    elements: Annotated[
        str | None, Option(help="Use these elements only, e.g. Cs,Pb,I.", metavar="LIST")
    ] = None
    exclude: Annotated[str | None, Option(help="Never use these elements.", metavar="LIST")] = None
    preset: Annotated[str, Option(help="default, or paper: the published method.")] = "default"
    start: Annotated[
        str | None,
        Option(help="First lattices: radii or random; else the preset's.", metavar="RULE"),
    ] = None
    oxidation: Annotated[str, Option(help="Table of oxidation numbers.", metavar="NAME")] = "smoacs"
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto"
    batch_sites: Annotated[
        int | None, Option(help="Sites evaluated together; fewer need less memory.")
    ] = None
    threads: Annotated[int | None, Option(help="CPU threads.", min=1)] = None
    reference: Annotated[
        Path | None,
        Option(help="Known structures, to count novel successes.", metavar="PATH"),
    ] = None
    keep_all: Annotated[
        bool, Option("--keep-all", help="Write all structures, not only successes.")
    ] = False
    force: Annotated[bool, Option("--force", help="Replace an earlier run in DIR.")] = False


def names_of(text: str) -> list[str]:
    """Names of predictors between commas; those in brackets belong to a name."""
    return [name.strip() for name in re.split(r",(?![^\[]*\])", text)]


def with_design_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options of DesignOptions to a command, which gets them as one object."""
    hints = get_type_hints(DesignOptions, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(DesignOptions)
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        if name != "options"
    ]

    @wraps(command)
    def with_options(**values: Any) -> int:
        names = (field.name for field in dataclasses.fields(DesignOptions))
        options = DesignOptions(**{name: values.pop(name) for name in names})
        return command(options=options, **values)

    with_options.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    return with_options


def objectives_of(options: DesignOptions, standard: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of the configuration; what is asked for replaces the standard criteria."""
    unknown = set(options.without or ()) - set(_STANDARD_CRITERIA)
    if unknown:
        raise ValueError(
            f"--without {unknown.pop()}: only {', '.join(_STANDARD_CRITERIA)} can be dropped"
        )
    # The published method rewards any further gain, and lets ions be where they like.
    published = options.preset == "paper"
    lower: dict[str, Any] = {"kind": "minimize", "enough": -inf if published else None}
    higher: dict[str, Any] = {"kind": "maximize", "enough": inf if published else None}
    asked: list[dict[str, Any]] = []
    if options.band_gap is not None:
        target = {"target": options.band_gap, "margin": options.band_gap_margin}
        asked.append({"kind": "window", "name": "band_gap", **target})
    for entry, texts, names in (
        ({"kind": "window"}, options.window, ("target", "margin")),
        (lower, options.minimize, ("below",)),
        (higher, options.maximize, ("above",)),
    ):
        asked += [{**entry, **_parse_target(entry["kind"], text, names)} for text in texts or ()]
    energy = {**lower, "name": "formation_energy", "below": options.formation_energy_below}
    dropped = {entry["name"] for entry in asked} | set(options.without or ())
    if published:
        dropped.add("contact_strain")
    entries = asked + [
        entry for entry in [energy, *standard] if entry.get("name", entry["kind"]) not in dropped
    ]
    if not entries:
        raise ValueError("there is no target left; give one, e.g. --band-gap 2.5")
    return entries


def _parse_target(kind: str, text: str, names: tuple[str, ...]) -> dict[str, Any]:
    """``bulk_modulus=120:10`` as property, target and margin."""
    name, _, rest = text.partition("=")
    try:
        numbers = [float(part) for part in rest.split(":")]
    except ValueError:
        numbers = []
    if not name or len(numbers) != len(names):
        example = "bulk_modulus=120:10" if kind == "window" else "formation_energy=-1"
        raise ValueError(f"--{kind} {text}: not understood; write it like {example}")
    return {"name": name, **dict(zip(names, numbers, strict=True))}
