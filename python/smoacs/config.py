"""config.yaml: all that decides the result of a design run."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field

from smoacs.objectives import (
    IonicContacts,
    Maximize,
    Minimize,
    Objective,
    ToleranceFactor,
    Window,
)
from smoacs.predictors.registry import split_properties
from smoacs.schedules import PRESETS, Preset
from smoacs.start import LATTICE_STARTS
from smoacs.templates import Template, aflow, from_file, from_folder, minerals, perovskite
from smoacs.templates.saved import load_templates, same_template
from smoacs.yaml_files import Section, checked, read_yaml

DEFAULT_PREDICTORS = ("smoacs-crystalformer-mp", "smoacs-alignn-mp")
"""Two families of networks, both of which must find the targets met."""

Count = Annotated[int, Field(ge=1)]


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split), Field(min_length=1)]
"""A list, or text with commas."""


class CustomEntry(Section):
    """Something made in Python that a file cannot hold: ``config.yaml`` only records its name."""

    kind: Literal["custom"] = "custom"
    name: str


class PerovskiteEntry(Section):
    """The perovskite template or one of its supercells."""

    kind: Literal["perovskite"] = "perovskite"
    supercell: tuple[Count, Count, Count] = (1, 1, 1)

    def templates(self, oxidation: str) -> list[Template]:
        """The template."""
        return [perovskite(self.supercell, oxidation)]


class PrototypeEntry(Section):
    """A library of prototypes, ``aflow`` or ``minerals``, or a file or folder of structures."""

    kind: Literal["prototype"] = "prototype"
    source: str
    only: Names | None = None

    LIBRARIES: ClassVar = {"aflow": aflow, "minerals": minerals}

    @property
    def is_library(self) -> bool:
        """Whether the source is always there, unlike the user's files."""
        return self.source in self.LIBRARIES

    def templates(self, oxidation: str) -> list[Template]:
        """All templates of the source, or those that ``only`` names."""
        path = Path(self.source)
        if self.is_library:
            found = self.LIBRARIES[self.source](oxidation=oxidation)
        elif path.is_dir():
            found = from_folder(path, oxidation)
        elif path.is_file():
            found = from_file(path, oxidation)
        else:
            raise ValueError(
                f"there are no prototypes at {self.source!r}: "
                "give 'aflow', 'minerals', or a file or folder of structures"
            )
        if self.only is None:
            return found
        by_name = {template.name: template for template in found}
        missing = [name for name in self.only if name not in by_name]
        if missing:
            raise ValueError(_no_prototype(self.source, missing[0], list(by_name)))
        return [by_name[name] for name in self.only]


class SavedEntry(Section):
    """Templates made in Python or of the user's files, kept beside ``config.yaml``."""

    kind: Literal["saved"] = "saved"
    path: Path = Path("templates.npz")
    is_library: ClassVar = False

    def templates(self, oxidation: str) -> list[Template]:
        """The templates of the file."""
        return load_templates(self.path)


TemplateEntry = Annotated[
    PerovskiteEntry | PrototypeEntry | SavedEntry, Field(discriminator="kind")
]


class WindowEntry(Section):
    """:class:`smoacs.Window`."""

    kind: Literal["window"] = "window"
    name: str
    target: float
    margin: float
    slack: float | None = None


class MinimizeEntry(Section):
    """:class:`smoacs.Minimize`."""

    kind: Literal["minimize"] = "minimize"
    name: str
    below: float = inf
    strength: float = 1.0
    enough: float | None = None


class MaximizeEntry(Section):
    """:class:`smoacs.Maximize`."""

    kind: Literal["maximize"] = "maximize"
    name: str
    above: float = -inf
    strength: float = 1.0
    enough: float | None = None


class ToleranceFactorEntry(Section):
    """:class:`smoacs.ToleranceFactor`."""

    kind: Literal["tolerance_factor"] = "tolerance_factor"
    low: float = 0.8
    high: float = 1.0
    strength: float = 5.0


class IonicContactsEntry(Section):
    """:class:`smoacs.IonicContacts`."""

    kind: Literal["contact_strain"] = "contact_strain"
    limit: float = 0.2
    strength: float = 5.0


ObjectiveEntry = Annotated[
    WindowEntry
    | MinimizeEntry
    | MaximizeEntry
    | ToleranceFactorEntry
    | IonicContactsEntry
    | CustomEntry,
    Field(discriminator="kind"),
]

# Entries and objectives have the same fields; anything else exists only in Python.
_OBJECTIVES: dict[type, type[Section]] = {
    Window: WindowEntry,
    Minimize: MinimizeEntry,
    Maximize: MaximizeEntry,
    ToleranceFactor: ToleranceFactorEntry,
    IonicContacts: IonicContactsEntry,
}


class RunConfig(Section):
    """A design run.

    Paths in a file are relative to its folder; files that smoacs writes hold absolute ones.
    """

    template: TemplateEntry
    objectives: Annotated[tuple[ObjectiveEntry, ...], Field(min_length=1)]
    predictors: Annotated[tuple[str | CustomEntry, ...], Field(min_length=1)] = DEFAULT_PREDICTORS
    candidates: Count = 256
    steps: Count = 200
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    preset: str | CustomEntry = "default"
    start: Literal["radii", "random"] | None = None
    masking: Literal["exact", "paper"] | None = None
    oxidation: str = "smoacs"
    elements: Names | None = None
    exclude: Names | None = None
    device: str = "auto"
    sites_per_batch: Count | None = None
    keep_all: bool = False
    reference: Path | None = None
    out: Path | None = None

    def to_yaml(self) -> str:
        """The text of config.yaml."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def resolved(self, folder: Path) -> RunConfig:
        """With paths that are relative to a folder made absolute."""
        template = self.template
        if isinstance(template, SavedEntry):
            template = SavedEntry(path=folder / template.path)
        elif isinstance(template, PrototypeEntry) and not template.is_library:
            template = template.model_copy(update={"source": str(folder / template.source)})
        predictors = tuple(
            _resolve_predictor(name, folder) if isinstance(name, str) else name
            for name in self.predictors
        )
        return self.model_copy(
            update={
                "template": template,
                "predictors": predictors,
                "reference": self.reference and folder / self.reference,
                "out": self.out and folder / self.out,
            }
        )


def make_config(**entries: object) -> RunConfig:
    """A configuration of some entries, with absolute paths.

    Raises
    ------
    ValueError
        If an entry is unknown, missing or bad; one line.
    """
    return checked(RunConfig, entries).resolved(Path.cwd())


def read_config(path: str | Path) -> RunConfig:
    """Read a configuration file.

    Raises
    ------
    ValueError
        If the file is missing or wrong; one line that names the entries.
    """
    return read_yaml(path, RunConfig).resolved(Path(path).resolve().parent)


def make_templates(config: RunConfig) -> list[Template]:
    """Templates of a configuration.

    Raises
    ------
    ValueError
        If a source is missing or a template is not charge neutral.
    """
    return config.template.templates(config.oxidation)


def make_objectives(config: RunConfig) -> list[Objective]:
    """Objectives of a configuration.

    Raises
    ------
    ValueError
        If an objective is wrong, or exists only in Python.
    """
    classes = {entry: objective for objective, entry in _OBJECTIVES.items()}
    objectives = []
    for entry in config.objectives:
        if isinstance(entry, CustomEntry):
            raise ValueError(_only_in_python("objective", entry.name))
        objectives.append(classes[type(entry)](**entry.model_dump(exclude={"kind"})))
    return objectives


def make_preset(config: RunConfig) -> Preset:
    """Preset of a configuration, before ``start`` and ``masking``.

    Raises
    ------
    ValueError
        If the preset is unknown, or exists only in Python.
    """
    if isinstance(config.preset, CustomEntry):
        raise ValueError(_only_in_python("preset", config.preset.name))
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}: choose {', '.join(PRESETS)}")
    return PRESETS[config.preset]


def adapt_preset(preset: Preset, config: RunConfig) -> Preset:
    """The preset with the configuration's own start and masking, where it names them."""
    changes: dict[str, object] = {}
    if config.start is not None:
        changes["lattice_start"] = LATTICE_STARTS[config.start]
    if config.masking is not None:
        changes["masking"] = config.masking
    return dataclasses.replace(preset, **changes)  # type: ignore[arg-type]


def predictor_names(config: RunConfig) -> list[str]:
    """Names of the predictors of a configuration.

    Raises
    ------
    ValueError
        If a predictor exists only in Python.
    """
    for entry in config.predictors:
        if isinstance(entry, CustomEntry):
            raise ValueError(_only_in_python("predictor", entry.name))
    return [str(name) for name in config.predictors]


def template_entry(templates: Sequence[Template], oxidation: str) -> Section:
    """Entry of templates made in Python; perovskites are told by comparison."""
    name = re.fullmatch(r"perovskite(?:-(\d+)x(\d+)x(\d+))?", templates[0].name)
    if len(templates) == 1 and name:
        a, b, c = (int(n or 1) for n in name.groups())
        entry = PerovskiteEntry(supercell=(a, b, c))
        if same_template(templates[0], entry.templates(oxidation)[0]):
            return entry
    return SavedEntry()


def objective_entry(objective: Objective) -> Section:
    """Entry of an objective."""
    entry = _OBJECTIVES.get(type(objective))
    if entry is None:
        return CustomEntry(name=objective.name)
    return entry(
        **{name: getattr(objective, name) for name in entry.model_fields if name != "kind"}
    )


def preset_entry(preset: str | Preset) -> str | CustomEntry:
    """Entry of a preset."""
    if isinstance(preset, str):
        return preset
    known = PRESETS.get(preset.name) == preset
    return preset.name if known else CustomEntry(name=preset.name)


def _only_in_python(what: str, name: str) -> str:
    return (
        f"the {what} {name!r} was made in Python, which no file can hold; "
        "pass it again from Python, see smoacs.runs.resume"
    )


def _resolve_predictor(name: str, folder: Path) -> str:
    """The name with an absolute path, where it is ``kind:path`` or a model's file."""
    model, _ = split_properties(name)
    brackets = name[len(model) :]
    kind, colon, rest = model.rpartition(":")
    path = folder / rest
    is_path = (colon and rest) or path.suffix in (".json", ".safetensors")
    return f"{kind}{colon}{path}{brackets}" if is_path and path.exists() else name


def _no_prototype(source: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`smoacs templates` lists the libraries'"
    return f"{source} has no prototype {name!r}: {hint}"
