"""Read crystal structures from files: CIF, POSCAR, extended XYZ, and JSON lines."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

STRUCTURE_SUFFIXES = frozenset({".cif", ".vasp", ".poscar", ".xyz", ".extxyz"})


class NamedStructure(NamedTuple):
    """A structure and the name it goes by in tables: file stem, or the ``id`` of its row."""

    name: str
    structure: Structure


def read_structures(path: str | Path) -> list[NamedStructure]:
    """All structures in a file.

    Parameters
    ----------
    path : str or Path
        CIF, POSCAR, extended XYZ (several frames allowed), or ``.jsonl`` / ``.jsonl.xz`` with one
        object per line as :func:`read_records` describes.

    Returns
    -------
    list of (name, Structure)
        In file order, never empty.

    Raises
    ------
    ValueError
        If the file does not exist, is of another kind, cannot be parsed, or holds no structure.
    """
    path = Path(path)
    if is_json_lines(path):
        found = [_from_record(record, path) for record in read_records(path)]
    elif not path.is_file():
        raise ValueError(f"there is no structure file {path}")
    elif path.suffix.lower() in {".xyz", ".extxyz"}:
        found = _read_xyz(path)
    else:
        found = [NamedStructure(path.stem, _read_single(path))]
    if not found:
        raise ValueError(f"{path} holds no structure")
    return found


def is_json_lines(path: Path) -> bool:
    """Whether the name says JSON lines, plain or xz-compressed."""
    return path.name.lower().endswith((".jsonl", ".jsonl.xz"))


def is_structure_file(path: Path) -> bool:
    """Whether the name is one :func:`read_structures` takes for a single-crystal format."""
    return path.suffix.lower() in STRUCTURE_SUFFIXES or path.name.upper().startswith(
        ("POSCAR", "CONTCAR")
    )


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file, checked to describe a crystal.

    Each row has ``species`` (element symbols), ``frac_coords``, and either ``lattice`` (a, b, c in
    Å and alpha, beta, gamma in degrees) or ``lattice_matrix`` (rows are lattice vectors in Å). All
    further keys (``id``, labels, ``split``) are passed through.

    Raises
    ------
    ValueError
        If the file does not exist or a line is not such an object; the line number is named.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no structure file {path}")
    opener = lzma.open if path.suffix.lower() == ".xz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse_record(line, f"{path}, line {number}")
    except (lzma.LZMAError, UnicodeDecodeError, EOFError) as error:
        raise ValueError(f"{path} is not a readable JSON-lines file: {error}") from error


def cell_matrix(record: Mapping[str, Any]) -> NDArray[np.float64]:
    """Lattice vectors of a row as a (3, 3) array in Å; vector a lies along x, b in the xy plane.

    Raises
    ------
    ValueError
        If the six cell parameters span no volume.
    """
    if "lattice_matrix" in record:
        return np.asarray(record["lattice_matrix"], dtype=np.float64)
    a, b, c, *angles = (float(value) for value in record["lattice"])
    cos_alpha, cos_beta, cos_gamma = np.cos(np.radians(angles))
    sin_gamma = np.sin(np.radians(angles[2]))
    c_x = c * cos_beta
    c_y = c * (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z_squared = c * c - c_x * c_x - c_y * c_y
    if not c_z_squared > 0:
        raise ValueError(f"the cell parameters {record['lattice']} span no volume")
    return np.array(
        [[a, 0.0, 0.0], [b * cos_gamma, b * sin_gamma, 0.0], [c_x, c_y, np.sqrt(c_z_squared)]]
    )


def _parse_record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error
    missing = [key for key in ("species", "frac_coords") if key not in record]
    if "lattice" not in record and "lattice_matrix" not in record:
        missing.append("lattice")
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if len(record["species"]) != len(record["frac_coords"]) or not record["species"]:
        raise ValueError(
            f"{where} has {len(record['species'])} species for "
            f"{len(record['frac_coords'])} coordinates"
        )
    return record


def _from_record(record: Mapping[str, Any], path: Path) -> NamedStructure:
    from pymatgen.core.periodic_table import Element
    from pymatgen.core.structure import Structure

    name = str(record.get("id", path.name.split(".")[0]))
    try:
        # Element refuses what Structure would take for a dummy species.
        species = [Element(symbol) for symbol in record["species"]]
        structure = Structure(cell_matrix(record), species, record["frac_coords"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: crystal {name} cannot be read: {error}") from error
    return NamedStructure(name, structure)


def _read_single(path: Path) -> Structure:
    from pymatgen.core.structure import Structure

    try:
        if path.suffix.lower() == ".cif":
            return Structure.from_file(path)
        if is_structure_file(path):
            from pymatgen.io.vasp.inputs import Poscar  # slow to import

            return Poscar.from_file(path, check_for_potcar=False).structure
    except Exception as error:  # pymatgen raises many kinds for a broken file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error
    raise ValueError(
        f"{path} is not a known structure file; known are CIF, POSCAR (.vasp or POSCAR*), "
        "extended XYZ, and .jsonl[.xz]"
    )


def _read_xyz(path: Path) -> list[NamedStructure]:
    from ase.io import read
    from pymatgen.io.ase import AseAtomsAdaptor

    try:
        frames = read(path, index=":", format="extxyz")
    except Exception as error:  # ASE raises many kinds for a broken file
        raise ValueError(f"{path} cannot be read as extended XYZ: {error}") from error
    for atoms in frames:
        if atoms.cell.rank < 3:
            raise ValueError(f"{path} holds a frame without a three-dimensional cell")
    names = [path.stem] if len(frames) == 1 else [f"{path.stem}-{n}" for n in range(len(frames))]
    return [
        NamedStructure(name, AseAtomsAdaptor.get_structure(atoms))
        for name, atoms in zip(names, frames, strict=True)
    ]
