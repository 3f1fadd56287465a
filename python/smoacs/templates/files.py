"""Templates from structures: any crystal with a charge-neutral choice of oxidation numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smoacs.chemistry import neutral_patterns, oxidation_table
from smoacs.structures_io import is_structure_file, read_structures
from smoacs.templates.base import Template, masks, point_group

if TYPE_CHECKING:
    from pymatgen.core import Structure

_LENGTH_RANGE = (0.6, 1.6)  # of the template's own lengths; other elements need other cells
_ANGLE_RANGE = (30.0, 150.0)
_MAX_PATTERNS = 10


def from_structure(structure: Structure, name: str, oxidation: str = "smoacs") -> Template:
    """Template with the cell, the sites and the charges of a structure.

    Sites of one element share an oxidation number; the patterns are the neutral combinations of
    the structure's own elements, at most 10. The lattice keeps the structure's crystal family;
    sites are free to move.

    Parameters
    ----------
    structure : Structure
        Ordered structure.
    name : str
        Name of the template.
    oxidation : str
        Name of the oxidation table, see :func:`smoacs.chemistry.oxidation_table`.

    Raises
    ------
    ValueError
        If the structure is disordered or has no neutral combination.
    """
    if not structure.is_ordered:
        raise ValueError(
            f"template {name} has partly occupied sites; only ordered ones can be used"
        )
    table = oxidation_table(oxidation)
    numbers = np.array([site.specie.Z for site in structure])
    elements, site_element = np.unique(numbers, return_inverse=True)
    counts = [(int(z), int((numbers == z).sum())) for z in elements]
    patterns = neutral_patterns(counts, table, limit=_MAX_PATTERNS)
    if not patterns:
        raise ValueError(
            f"template {name} ({structure.composition.reduced_formula}) has no charge-neutral "
            f"combination of oxidation numbers in the table {oxidation!r}"
        )
    states = np.array(patterns)[:, site_element]
    lengths = np.array(structure.lattice.abc)
    low, high = _LENGTH_RANGE
    return Template(
        name=name,
        lengths=lengths,
        angles=np.array(structure.lattice.angles),
        frac_coords=np.array(structure.frac_coords),
        length_bounds=np.stack([low * lengths, high * lengths]),
        angle_bounds=np.stack([np.full(3, angle) for angle in _ANGLE_RANGE]),
        coord_limit=np.full(3, np.inf),
        rotations=point_group(structure),
        oxidation_states=states,
        allowed=masks(states, table),
        roles=tuple(site.specie.symbol for site in structure),
    )


def from_file(path: str | Path, oxidation: str = "smoacs") -> list[Template]:
    """One template per structure of a file (CIF, POSCAR, extended XYZ, JSON lines).

    Raises
    ------
    ValueError
        If the file cannot be read or a structure makes no template.
    """
    return [from_structure(s, name, oxidation) for name, s in read_structures(path)]


def from_folder(path: str | Path, oxidation: str = "smoacs") -> list[Template]:
    """Templates from all structure files of a folder, in the order of their names.

    Structures without a neutral combination are left out with a warning.

    Raises
    ------
    ValueError
        If the folder does not exist, a file cannot be read, or no template remains.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"there is no template folder {folder}")
    files = sorted(f for f in folder.iterdir() if f.is_file() and is_structure_file(f))
    if not files:
        raise ValueError(f"{folder} holds no structure file (CIF, POSCAR, .vasp, .xyz)")
    templates = []
    for file in files:
        for name, structure in read_structures(file):
            try:
                templates.append(from_structure(structure, name, oxidation))
            except ValueError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
    if not templates:
        raise ValueError(
            f"no structure in {folder} has a charge-neutral combination of its elements"
        )
    return templates
