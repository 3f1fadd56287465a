"""Template libraries: AFLOW prototypes (in pymatgen) and JARVIS minerals (in jarvis-tools)."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smoacs.templates.base import Template
from smoacs.templates.files import from_structure

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_SITES = 20


def aflow(max_sites: int = MAX_SITES, oxidation: str = "smoacs") -> list[Template]:
    """The charge-balanced AFLOW prototypes with at most ``max_sites`` sites, by name.

    Source: AFLOW Encyclopedia of Crystallographic Prototypes as shipped with pymatgen (Mehl et
    al., Comput. Mater. Sci. 136, S1, 2017).

    Raises
    ------
    ValueError
        If none is small enough.
    """
    return _library("AFLOW", _aflow_prototypes(), max_sites, oxidation)


def minerals(max_sites: int = MAX_SITES, oxidation: str = "smoacs") -> list[Template]:
    """The charge-balanced JARVIS mineral prototypes with at most ``max_sites`` sites, by name.

    Source: the table inside jarvis-tools (NIST), which must be installed.

    Raises
    ------
    ValueError
        If jarvis-tools is missing or no prototype is small enough.
    """
    return _library("mineral", _jarvis_minerals(), max_sites, oxidation)


def _library(
    kind: str, entries: Iterable[_Entry], max_sites: int, oxidation: str
) -> list[Template]:
    templates = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        if entry.n_sites > max_sites:
            continue
        try:
            templates.append(from_structure(entry.build(), entry.name, oxidation))
        except ValueError:
            continue  # elements and intermetallics have no neutral combination
    if not templates:
        raise ValueError(f"no charge-balanced {kind} prototype has at most {max_sites} sites")
    return templates


class _Entry(NamedTuple):
    """A prototype of a table; its structure takes time to build."""

    name: str
    n_sites: int
    build: Callable[[], Structure]


def _aflow_prototypes() -> Iterator[_Entry]:
    from pymatgen.core import Structure

    # Importing the module beside the table builds all its structures, in seconds.
    with gzip.open(_folder("pymatgen.analysis.prototypes") / "aflow_prototypes.json.gz") as table:
        prototypes = json.load(table)
    for prototype in prototypes:
        structure = prototype["snl"]
        yield _Entry(
            prototype["tags"]["aflow"],
            len(structure["sites"]),
            partial(Structure.from_dict, structure),
        )


def _jarvis_minerals() -> Iterator[_Entry]:
    from pymatgen.core import Structure

    if find_spec("jarvis") is None:
        raise ValueError(
            "mineral templates are part of jarvis-tools, which is not installed: "
            "pip install jarvis-tools"
        )
    archive = _folder("jarvis") / "core" / "mineral_name_prototype.json.zip"
    with zipfile.ZipFile(archive) as files, files.open(files.namelist()[0]) as table:
        prototypes = json.load(table)
    for entries in prototypes.values():
        for mineral, _, jarvis_id, atoms in entries:
            yield _Entry(
                f"{mineral}-{jarvis_id}",
                len(atoms["elements"]),
                partial(
                    Structure,
                    atoms["lattice_mat"],
                    atoms["elements"],
                    atoms["coords"],
                    coords_are_cartesian=atoms["cartesian"],
                ),
            )


def _folder(module: str) -> Path:
    """Where an installed module lies, without importing it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(f"the module {module} is missing")
    return Path(spec.origin).parent
