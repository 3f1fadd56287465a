"""Charge neutrality of compositions of any size, mixed valence included, solved exactly.

The sums that the oxidation numbers of n atoms can reach are a set of small integers that grows by
adding one atom at a time (paper, criterion "neutral"; there left out at 135 atoms). Here such a
set is one Python integer with bit i set where the sum i can be reached, counted from the lowest
possible sum: adding an atom is a shift per oxidation number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

from smoacs.chemistry.elements import symbol
from smoacs.chemistry.oxidation import OxidationTable, electronegativity, rarity

if TYPE_CHECKING:
    from pymatgen.core.composition import Composition
    from pymatgen.core.structure import Structure

Assignment: TypeAlias = Mapping[int, Mapping[int, int]]
"""Number of atoms by atomic number and oxidation number, e.g. ``{26: {2: 1, 3: 2}, 8: {-2: 4}}``.

Elements run from the least to the most electronegative, oxidation numbers ascend.
"""

Crystal: TypeAlias = "Mapping[int, int] | Composition | Structure | Sequence[int]"
"""Number of atoms by atomic number, pymatgen composition or structure, or atomic numbers."""

_Ranked: TypeAlias = tuple[tuple[int, int, int], tuple[int, ...]]  # penalties, oxidation numbers


def element_counts(crystal: Crystal) -> dict[int, int]:
    """Number of atoms by atomic number.

    Raises
    ------
    ValueError
        If there is no atom, a number of atoms is not a positive integer, or Z is not in 1..98.
    """
    crystal = getattr(crystal, "composition", crystal)
    counts: Counter[int] = Counter()
    if isinstance(crystal, Mapping):
        for element, amount in crystal.items():
            z = int(getattr(element, "Z", element))
            if amount != int(amount) or amount < 1:
                raise ValueError(f"neutrality needs whole atoms, got {amount} of {symbol(z)}")
            counts[z] += int(amount)
    else:
        counts.update(int(z) for z in crystal)
    if not counts:
        raise ValueError("a composition needs at least one atom, got none")
    return {z: counts[z] for z in sorted(counts) if symbol(z)}


def neutral_patterns(
    counts: Sequence[tuple[int, int]],
    table: OxidationTable,
    *,
    limit: int = 10,
    total_charge: int = 0,
) -> list[tuple[int, ...]]:
    """Neutral combinations with one oxidation number per element, the most plausible first.

    Combinations are ordered by the sums over all atoms of: how rare the oxidation number is
    (:func:`smoacs.chemistry.oxidation.rarity`), its size, oxidation number times electronegativity
    (positive charge belongs on the less electronegative element); then by the numbers themselves.

    Parameters
    ----------
    counts : sequence of (int, int)
        Atomic number and number of atoms; an element named twice gets two independent numbers.
    table : OxidationTable
        Oxidation numbers to choose from.
    limit : int
        Largest number of combinations.
    total_charge : int
        Charge that the atoms must sum to.

    Returns
    -------
    list of tuple of int
        Oxidation numbers in the order of ``counts``; empty if there is no neutral combination.
    """
    groups = [_Group(z, atoms, table.states_of(z)) for z, atoms in counts]
    if not all(group.states for group in groups):
        return []
    target = total_charge - sum(group.lowest for group in groups)
    # remainders[i]: sums that groups i, i + 1, ... can reach
    remainders = [1]
    for group in reversed(groups):
        remainders.insert(0, group.add_single(remainders[0]))
    # The best combinations of the groups so far for each sum. One that a sum's better ones
    # outnumber now stays outnumbered whatever the other groups do.
    best: dict[int, list[_Ranked]] = {0: [((0, 0, 0), ())]}
    for group, remainder in zip(groups, remainders[1:], strict=True):
        grown: defaultdict[int, list[_Ranked]] = defaultdict(list)
        for state in group.states:
            step = group.total({state: group.atoms})
            rare, size, polar = (group.atoms * p for p in _implausibility(group.z, state))
            for total, ranked in best.items():
                if _contains(remainder, target - total - step):
                    grown[total + step].extend(
                        ((a + rare, b + size, c + polar), (*states, state))
                        for (a, b, c), states in ranked
                    )
        best = {total: nsmallest(limit, found) for total, found in grown.items()}
    return [states for _, states in best.get(target, [])]


def neutral_assignment(
    crystal: Crystal, table: OxidationTable, *, total_charge: int = 0
) -> Assignment | None:
    """Oxidation numbers of all atoms that sum to zero, or None if no choice does.

    As few elements as possible have mixed valence. Without any, this is the first of
    :func:`neutral_patterns`. Otherwise the elements choose in turn, the most electronegative
    first: one oxidation number if possible, else two, else more; among these the most common,
    the closest to each other, the smallest.

    Parameters
    ----------
    crystal : mapping of int to int, Composition, Structure or sequence of int
        What :func:`element_counts` takes.
    table : OxidationTable
        Oxidation numbers to choose from. An element that is not listed makes the answer None.
    total_charge : int
        Charge that the atoms must sum to.

    Raises
    ------
    ValueError
        If the number of atoms of an element is not a positive integer or Z is not in 1..98.
    """
    counts = sorted(element_counts(crystal).items(), key=lambda item: _polarity(item[0]))
    if not all(table.states_of(z) for z, _ in counts):
        return None
    patterns = neutral_patterns(counts, table, limit=1, total_charge=total_charge)
    if patterns:
        return {z: {state: n} for (z, n), state in zip(counts, patterns[0], strict=True)}
    groups = [_Group(z, n, table.states_of(z)) for z, n in counts]
    target = total_charge - sum(group.lowest for group in groups)
    anything = 1
    for group in groups:
        anything = group.grow(anything)[-1]
    if not _contains(anything, target):
        return None
    return next(
        assignment
        for mixed in range(1, len(groups) + 1)
        if (assignment := _mixed_assignment(groups, target, mixed)) is not None
    )


def is_neutral(crystal: Crystal, table: OxidationTable) -> bool:
    """Whether some choice of oxidation numbers, mixed valence included, sums to zero.

    Takes and raises what :func:`neutral_assignment` does.
    """
    return neutral_assignment(crystal, table) is not None


def assign_sites(atomic_numbers: Sequence[int], table: OxidationTable) -> list[int] | None:
    """Oxidation number of each site from :func:`neutral_assignment`, or None if there is none.

    Of an element with mixed valence the first sites get the lowest oxidation number.
    """
    assignment = neutral_assignment(atomic_numbers, table)
    if assignment is None:
        return None
    queues = {
        z: iter([state for state, n in split.items() for _ in range(n)])
        for z, split in assignment.items()
    }
    return [next(queues[int(z)]) for z in atomic_numbers]


def format_assignment(assignment: Assignment) -> str:
    """Assignment as text: ``Cs+1 Pb+2 I-1``, with mixed valence ``Fe+2(1) Fe+3(2) O-2(4)``."""
    mixed = any(len(split) > 1 for split in assignment.values())
    return " ".join(
        f"{symbol(z)}{state:+d}" + (f"({n})" if mixed else "")
        for z, split in assignment.items()
        for state, n in split.items()
    )


def _polarity(z: int) -> tuple[int, int]:
    """Sort key from the least to the most electronegative element."""
    return electronegativity(z), z


def _implausibility(z: int, state: int) -> tuple[int, int, int]:
    """Penalties of one atom; lower is more plausible, compared in this order."""
    return rarity(z, state), abs(state), state * electronegativity(z)


def _contains(sums: int, total: int) -> bool:
    return total >= 0 and bool(sums >> total & 1)


@dataclass(frozen=True)
class _Group:
    """The atoms of one element."""

    z: int
    atoms: int
    states: tuple[int, ...]

    @property
    def lowest(self) -> int:
        """Charge of all atoms in the lowest oxidation number, where sums count from."""
        return self.atoms * self.states[0]

    def total(self, split: Mapping[int, int]) -> int:
        """Sum of a split, counted from the lowest."""
        return sum(n * (state - self.states[0]) for state, n in split.items())

    def add_single(self, sums: int) -> int:
        """Set of sums with all atoms added in one oxidation number."""
        return _shift(sums, [self.total({state: self.atoms}) for state in self.states])

    def grow(self, sums: int) -> list[int]:
        """Sets of sums with 0, 1, ... all atoms added, each in any oxidation number."""
        stages = [sums]
        for _ in range(self.atoms):
            sums = _shift(sums, [state - self.states[0] for state in self.states])
            stages.append(sums)
        return stages

    def splits(self) -> Iterator[dict[int, int]]:
        """Atoms in one oxidation number, then in two, the most plausible first."""
        for state in sorted(self.states, key=lambda s: _implausibility(self.z, s)):
            yield {state: self.atoms}
        for low, high in sorted(combinations(self.states, 2), key=self._pair_rank):
            for n in range(1, self.atoms):
                yield {low: self.atoms - n, high: n}

    def _pair_rank(self, pair: tuple[int, int]) -> tuple[int, int, int]:
        low, high = pair
        rare = rarity(self.z, low) + rarity(self.z, high)
        return rare, high - low, abs(low) + abs(high)


def _shift(sums: int, offsets: Sequence[int]) -> int:
    shifted = 0
    for offset in offsets:
        shifted |= sums << offset
    return shifted


def _mixed_assignment(groups: Sequence[_Group], target: int, mixed: int) -> Assignment | None:
    """An assignment with at most so many elements of mixed valence."""
    # reached[i][m]: sums of the first i groups with at most m of them mixed
    reached = [[1] * (mixed + 1)]
    for group in groups:
        before = reached[-1]
        after = [group.add_single(sums) for sums in before]
        for m in range(mixed):
            after[m + 1] |= group.grow(before[m])[-1]
        reached.append(after)
    if not _contains(reached[-1][mixed], target):
        return None
    assignment = {}
    for group, before in zip(reversed(groups), reversed(reached[:-1]), strict=True):
        split = _choose(group, before, target, mixed)
        target -= group.total(split)
        mixed -= len(split) > 1
        assignment[group.z] = dict(sorted(split.items()))
    return dict(reversed(assignment.items()))


def _choose(group: _Group, before: Sequence[int], target: int, mixed: int) -> Mapping[int, int]:
    """The most plausible split of the last group's atoms, given what those before can reach."""
    for split in group.splits():
        left = mixed - (len(split) > 1)
        if left >= 0 and _contains(before[left], target - group.total(split)):
            return split
    # Three or more oxidation numbers: atom by atom, each in the most plausible one.
    preferred = sorted(group.states, key=lambda state: _implausibility(group.z, state))
    split = Counter()
    for sums in reversed(group.grow(before[mixed - 1])[:-1]):
        state = next(s for s in preferred if _contains(sums, target - (s - group.states[0])))
        target -= state - group.states[0]
        split[state] += 1
    return split
