"""The elements H to Cf by symbol and atomic number, and lists of them as users write them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

symbols: tuple[str, ...] = tuple(
    """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se
    Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy
    Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf
    """.split()  # noqa: SIM905  (three lines instead of thirteen)
)
"""Symbols of Z = 1..98; ``symbols[z - 1]`` is the element of atomic number z."""

_NUMBERS = {name: z for z, name in enumerate(symbols, start=1)}


def symbol(z: int) -> str:
    """Symbol of an element.

    Raises
    ------
    ValueError
        If z is not in 1..98.
    """
    if not 1 <= z <= len(symbols):
        raise ValueError(f"atomic number must be 1 to {len(symbols)} (H to Cf), got {z}")
    return symbols[z - 1]


def atomic_number(name: str) -> int:
    """Atomic number of an element symbol such as ``"Cs"``.

    Raises
    ------
    ValueError
        If it is no symbol of an element from H to Cf; the closest one is suggested.
    """
    if name in _NUMBERS:
        return _NUMBERS[name]
    close = difflib.get_close_matches(name.capitalize(), symbols, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "smoacs knows H to Cf, e.g. 'Cs'"
    raise ValueError(f"unknown element {name!r}: {hint}")


def parse_elements(elements: str | Sequence[str]) -> frozenset[int]:
    """Atomic numbers of a list of element symbols.

    Parameters
    ----------
    elements : str or sequence of str
        ``"Cs,Sn,I"`` (spaces are ignored) or ``["Cs", "Sn", "I"]``.

    Raises
    ------
    ValueError
        If a symbol is unknown or there is none at all.
    TypeError
        If an entry is not a string.
    """
    names = elements.split(",") if isinstance(elements, str) else elements
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"elements are given by symbol, e.g. 'Cs', got {name!r}")
    numbers = frozenset(atomic_number(name.strip()) for name in names if name.strip())
    if not numbers:
        raise ValueError(f"no element in {elements!r}; give symbols such as 'Cs,Sn,I'")
    return numbers


def select_elements(
    allow: str | Sequence[str] | None = None, exclude: str | Sequence[str] | None = None
) -> frozenset[int]:
    """Atomic numbers that may be used, from what is allowed and what is not.

    Parameters
    ----------
    allow, exclude : str or sequence of str, optional
        Element symbols as in :func:`parse_elements`. Without ``allow`` all of H to Cf are meant.

    Raises
    ------
    ValueError
        If a symbol is unknown, an element is both allowed and excluded, or none remains.
    """
    allowed = frozenset(_NUMBERS.values()) if allow is None else parse_elements(allow)
    excluded = frozenset() if exclude is None else parse_elements(exclude)
    both = sorted(allowed & excluded)
    if allow is not None and both:
        names = ", ".join(map(symbol, both))
        raise ValueError(f"both allowed and excluded: {names}; name each element in one list only")
    remaining = allowed - excluded
    if not remaining:
        raise ValueError("every element from H to Cf is excluded; leave at least one")
    return remaining
