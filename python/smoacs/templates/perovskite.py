"""The perovskite template ABX3 and its supercells (paper, section 4.2)."""

from __future__ import annotations

import itertools

import numpy as np

from smoacs.chemistry import ionic_radius, oxidation_table
from smoacs.crystals import N_ELEMENTS
from smoacs.templates.base import Template, masks

_IDEAL = {
    "A": [(0.0, 0.0, 0.0)],
    "B": [(0.5, 0.5, 0.5)],
    "X": [(0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5)],
}
_PATTERNS = ({"A": 1, "B": 2, "X": -1}, {"A": 2, "B": 4, "X": -2})
_LENGTH_BOUNDS = (2.0, 10.0)  # Å, of one five-atom cell
_COORD_LIMIT = 0.15
# The lattice is orthogonal with three independent lengths: point group mmm.
_ORTHOGONAL = np.stack([np.diag(signs) for signs in itertools.product((1, -1), repeat=3)])


def perovskite(supercell: tuple[int, int, int] = (1, 1, 1), oxidation: str = "smoacs") -> Template:
    """Perovskite ABX3 with independent lengths a, b, c and right angles.

    Sites may move by 0.15 of the five-atom cell. An element is allowed where the table lists its
    oxidation number and an ionic radius exists for it.

    Parameters
    ----------
    supercell : tuple of 3 int
        Repetitions along a, b, c; (3, 3, 3) has 135 sites, all with an element of their own.
    oxidation : str
        Name of the oxidation table, see :func:`smoacs.chemistry.oxidation_table`.

    Raises
    ------
    ValueError
        If a repetition is below 1 or the table is unknown.
    """
    if len(supercell) != 3 or any(n < 1 for n in supercell):
        raise ValueError(f"supercell must be three positive integers, got {supercell}")
    repeat = np.array(supercell)
    cells = np.array(list(itertools.product(*(range(n) for n in supercell))))
    roles, coords = [], []
    for role, sites in _IDEAL.items():
        for site in sites:
            coords.append((cells + np.array(site)) / repeat)
            roles.extend([role] * len(cells))
    table = oxidation_table(oxidation)
    states = np.array([[pattern[role] for role in roles] for pattern in _PATTERNS])
    has_radius = {
        state: np.array([ionic_radius(z, state) is not None for z in range(1, N_ELEMENTS + 1)])
        for state in np.unique(states).tolist()
    }
    extra = np.stack([[has_radius[state] for state in row] for row in states.tolist()])
    low, high = _LENGTH_BOUNDS
    suffix = "" if supercell == (1, 1, 1) else "-" + "x".join(map(str, supercell))
    return Template(
        name=f"perovskite{suffix}",
        lengths=4.0 * repeat,
        angles=np.full(3, 90.0),
        frac_coords=np.concatenate(coords),
        length_bounds=np.stack([low * repeat, high * repeat]),
        angle_bounds=np.full((2, 3), 90.0),
        coord_limit=_COORD_LIMIT / repeat,
        rotations=_ORTHOGONAL,
        oxidation_states=states,
        allowed=masks(states, table, extra),
        roles=tuple(roles),
    )
