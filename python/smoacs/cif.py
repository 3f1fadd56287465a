"""Structures as CIF text and back, sites in the order in which they were written."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Structure


def write_cif(structure: Structure) -> str:
    """CIF text of an ordered structure in P1, eight decimals."""
    from pymatgen.io.cif import CifWriter

    return str(CifWriter(structure))


def read_cif(text: str) -> Structure:
    """Structure of a text that :func:`write_cif` wrote, with its order of sites.

    pymatgen's reader sorts sites; the labels (element and number) give the order back.

    Raises
    ------
    ValueError
        If the text holds no readable structure or its labels are not numbered from 0 to n - 1.
    """
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        # The reader snaps coordinates near thirds and says so; that is what every reader gets.
        warnings.simplefilter("ignore", UserWarning)
        structure = CifParser.from_str(text).parse_structures(primitive=False)[0]
    numbers = [re.search(r"\d*$", site.label)[0] for site in structure]  # type: ignore[index]
    if sorted(numbers, key=lambda n: (len(n), n)) != [str(i) for i in range(len(structure))]:
        raise ValueError(
            "its atom labels are not numbered from 0 to n - 1, as in the files that smoacs writes"
        )
    places = dict(zip(numbers, structure, strict=True))
    return type(structure).from_sites([places[str(i)] for i in range(len(structure))])
