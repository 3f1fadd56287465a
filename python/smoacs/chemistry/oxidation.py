"""Which oxidation numbers each element may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from smoacs.chemistry.elements import symbol, symbols


@dataclass(frozen=True)
class OxidationTable:
    """Oxidation numbers of the elements; always in ascending order, so that results repeat.

    Attributes
    ----------
    name : str
        Name of the table.
    states : mapping of int to tuple of int
        Oxidation numbers by atomic number; an element without any may be missing.
    """

    name: str
    states: Mapping[int, tuple[int, ...]] = field(hash=False)

    def __post_init__(self) -> None:
        ordered = {
            z: tuple(sorted({int(state) for state in self.states[z]}))
            for z in sorted(self.states)
            if symbol(z) and len(self.states[z]) > 0
        }
        object.__setattr__(self, "states", MappingProxyType(ordered))

    def __reduce__(self) -> tuple[type[OxidationTable], tuple[str, dict[int, tuple[int, ...]]]]:
        return type(self), (self.name, dict(self.states))

    def states_of(self, z: int) -> tuple[int, ...]:
        """Oxidation numbers of an element, ascending; empty if none is listed."""
        return self.states.get(z, ())

    def allows(self, z: int, state: int) -> bool:
        """Whether an element may have an oxidation number."""
        return state in self.states_of(z)

    def mask(self, state: int) -> NDArray[np.bool_]:
        """Elements that may have an oxidation number, (98,) bool."""
        return np.array([self.allows(z, state) for z in range(1, len(symbols) + 1)])


def _pymatgen(name: str, attribute: str) -> Iterable[int]:
    from pymatgen.core.periodic_table import Element

    return getattr(Element(name), attribute)


def _smact(name: str, attribute: str) -> Iterable[int]:
    from smact import Element

    # SMACT says None for an element that its list does not know.
    return getattr(Element(name), attribute) or ()


_Source = tuple[Callable[[str, str], Iterable[int]], str]

_ICSD: _Source = (_pymatgen, "icsd_oxidation_states")
_KNOWN: _Source = (_pymatgen, "oxidation_states")
_COMMON: _Source = (_pymatgen, "common_oxidation_states")
_SMACT14: _Source = (_smact, "oxidation_states_smact14")

# The lists whose intersection is a table.
_TABLES: Mapping[str, tuple[_Source, ...]] = {
    "smoacs": (_ICSD, _KNOWN, _COMMON, _SMACT14),
    "smact14": (_SMACT14,),
    "icsd16": ((_smact, "oxidation_states_icsd16"),),
    "icsd24": ((_smact, "oxidation_states_icsd24"),),
    "pymatgen": (_KNOWN,),
    "common": (_COMMON,),
}

OXIDATION_TABLES: tuple[str, ...] = tuple(_TABLES)
"""Names that :func:`oxidation_table` knows."""


@cache
def oxidation_table(name: str = "smoacs") -> OxidationTable:
    """Oxidation numbers of the elements H to Cf.

    Parameters
    ----------
    name : str
        ``smoacs``: the paper's own list (table B.4), the numbers that pymatgen gives as known,
        common and frequent in the ICSD and that SMACT 2.5.5 lists too; ``smact14``: SMACT 2.5.5;
        ``icsd16``, ``icsd24``: SMACT's lists from the ICSD of 2016 and 2024; ``pymatgen``: all
        known ones; ``common``: pymatgen's common ones, with 0 for carbon.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in _TABLES:
        raise ValueError(f"unknown oxidation table {name!r}: choose {', '.join(OXIDATION_TABLES)}")
    states = {
        z: set.intersection(*(set(lookup(element, key)) for lookup, key in _TABLES[name]))
        for z, element in enumerate(symbols, start=1)
    }
    return OxidationTable(name, {z: tuple(sorted(found)) for z, found in states.items()})


@cache
def electronegativity(z: int) -> int:
    """Pauling electronegativity in hundredths, exact for sums; 0 where pymatgen has none."""
    from pymatgen.core.periodic_table import Element

    return round(100 * (Element(symbol(z)).data.get("X") or 0.0))


@cache
def rarity(z: int, state: int) -> int:
    """How unusual an oxidation number is: 0 common, 1 only frequent in the ICSD, 2 neither.

    Both lists are pymatgen's: ``common_oxidation_states`` and ``icsd_oxidation_states``.
    """
    if state in _pymatgen(symbol(z), "common_oxidation_states"):
        return 0
    return 1 if state in _pymatgen(symbol(z), "icsd_oxidation_states") else 2
