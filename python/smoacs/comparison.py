"""Which crystals are the same: uniqueness within a run, novelty against a reference set.

Two crystals are the same when their reduced formulas are equal and pymatgen's structure matcher
maps one on the other; equal formulas alone are not enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smoacs.structures_io import (
    cell_matrix,
    is_json_lines,
    is_structure_file,
    read_records,
    read_structures,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure


def first_of_kind(structures: Sequence[Structure]) -> list[bool]:
    """Whether each structure differs from all before it."""
    first = []
    known: dict[str, list[Structure]] = {}
    for structure in structures:
        seen = known.setdefault(_formula_of(structure), [])
        first.append(not _matches_any(structure, seen))
        if first[-1]:
            seen.append(structure)
    return first


def share_of_novel(structures: Sequence[Structure], reference: str | Path) -> float | None:
    """Share of structures that are not in a reference set; None without any structure.

    Parameters
    ----------
    structures : sequence of Structure
    reference : str or Path
        A folder of structure files, or one file that :func:`~smoacs.structures_io.read_structures`
        takes.

    Raises
    ------
    ValueError
        If the reference does not exist or cannot be read.
    """
    wanted = {_formula_of(structure) for structure in structures}
    known: dict[str, list[Structure]] = {}
    for structure in _reference_structures(Path(reference), wanted):
        known.setdefault(_formula_of(structure), []).append(structure)
    if not structures:
        return None
    novel = sum(not _matches_any(s, known.get(_formula_of(s), [])) for s in structures)
    return novel / len(structures)


def _reference_structures(path: Path, wanted: Collection[str]) -> Iterator[Structure]:
    """Structures of the wanted formulas; large JSON-lines sets are filtered before parsing."""
    from pymatgen.core import Composition, Structure

    if is_json_lines(path):
        for record in read_records(path):
            if Composition(Counter(record["species"])).reduced_formula in wanted:
                yield Structure(cell_matrix(record), record["species"], record["frac_coords"])
    elif path.is_dir():
        for file in sorted(f for f in path.iterdir() if is_structure_file(f)):
            yield from (structure for _, structure in read_structures(file))
    else:
        yield from (structure for _, structure in read_structures(path))


def _formula_of(structure: Structure) -> str:
    return str(structure.composition.element_composition.reduced_formula)


def _matches_any(structure: Structure, others: Sequence[Structure]) -> bool:
    from pymatgen.analysis.structure_matcher import ElementComparator, StructureMatcher

    matcher = StructureMatcher(comparator=ElementComparator())
    return any(matcher.fit(structure, other) for other in others)
