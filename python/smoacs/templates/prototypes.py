"""Template libraries: AFLOW prototypes (in pymatgen) and JARVIS minerals (in jarvis-tools)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

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
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    entries = ((e["tags"]["aflow"], e["snl"].structure) for e in AFLOW_PROTOTYPE_LIBRARY)
    return _library("AFLOW", entries, max_sites, oxidation)


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
    kind: str, entries: Iterable[tuple[str, Structure]], max_sites: int, oxidation: str
) -> list[Template]:
    templates = []
    for name, structure in sorted(entries, key=lambda entry: entry[0]):
        if len(structure) > max_sites:
            continue
        try:
            templates.append(from_structure(structure, name, oxidation))
        except ValueError:
            continue  # elements and intermetallics have no neutral combination
    if not templates:
        raise ValueError(f"no charge-balanced {kind} prototype has at most {max_sites} sites")
    return templates


def _jarvis_minerals() -> Iterator[tuple[str, Structure]]:
    from pymatgen.core import Structure

    package = find_spec("jarvis")
    if package is None or package.origin is None:
        raise ValueError(
            "mineral templates are part of jarvis-tools, which is not installed: "
            "pip install jarvis-tools"
        )
    archive = Path(package.origin).parent / "core" / "mineral_name_prototype.json.zip"
    with zipfile.ZipFile(archive) as files, files.open(files.namelist()[0]) as table:
        prototypes = json.load(table)
    for entries in prototypes.values():
        for mineral, _, jarvis_id, atoms in entries:
            structure = Structure(
                atoms["lattice_mat"],
                atoms["elements"],
                atoms["coords"],
                coords_are_cartesian=atoms["cartesian"],
            )
            yield f"{mineral}-{jarvis_id}", structure
