from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Element, Lattice, Structure
from smact import neutral_ratios

from smoacs.chemistry import (
    OXIDATION_TABLES,
    OxidationTable,
    assign_sites,
    element_counts,
    format_assignment,
    is_neutral,
    neutral_assignment,
    neutral_patterns,
    oxidation_table,
)
from smoacs.chemistry.oxidation import rarity

_SMOACS = oxidation_table("smoacs")


def total(assignment):
    return sum(state * n for split in assignment.values() for state, n in split.items())


def check(assignment, counts, table, total_charge=0):
    """Every atom has a listed oxidation number, and they sum up."""
    assert total(assignment) == total_charge
    assert {z: sum(split.values()) for z, split in assignment.items()} == dict(counts)
    for z, split in assignment.items():
        assert all(table.allows(z, state) and n > 0 for state, n in split.items())
        assert list(split) == sorted(split)


def brute_force(counts, table, total_charge):
    """Fewest elements of mixed valence over all neutral choices atom by atom; None without any."""
    choices = [
        itertools.combinations_with_replacement(table.states_of(z), n) for z, n in counts.items()
    ]
    return min(
        (
            sum(len(set(states)) > 1 for states in choice)
            for choice in itertools.product(*choices)
            if sum(map(sum, choice)) == total_charge
        ),
        default=None,
    )


def implausibility(counts, states):
    """The documented order of patterns, from pymatgen's data."""
    rare, size, polar = 0, 0, 0
    for (z, n), state in zip(counts, states, strict=True):
        element = Element.from_Z(z)
        if state not in element.common_oxidation_states:
            rare += n if state in element.icsd_oxidation_states else 2 * n
        size += n * abs(state)
        polar += n * state * round(100 * element.data.get("X", 0))
    return rare, size, polar, states


tables = st.dictionaries(
    st.integers(1, 98),
    st.sets(st.integers(-8, 9), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=4,
).map(lambda states: OxidationTable("drawn", states))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_matches_brute_force(data):
    table = data.draw(tables)
    counts = {z: data.draw(st.integers(1, 5)) for z in table.states}
    charge = data.draw(st.sampled_from([0, 0, 0, 1, -3]))
    expected = brute_force(counts, table, charge)
    assignment = neutral_assignment(counts, table, total_charge=charge)
    if expected is None:
        assert assignment is None
    else:
        check(assignment, counts, table, charge)
        assert sum(len(split) > 1 for split in assignment.values()) == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_patterns_match_brute_force(data):
    table = data.draw(tables)
    counts = [(z, data.draw(st.integers(1, 5))) for z in table.states]
    choices = itertools.product(*(table.states_of(z) for z, _ in counts))
    neutral = [
        states
        for states in choices
        if sum(n * state for (_, n), state in zip(counts, states, strict=True)) == 0
    ]
    expected = sorted(neutral, key=lambda states: implausibility(counts, states))
    for limit in (1, 3, 10_000):
        assert neutral_patterns(counts, table, limit=limit) == expected[:limit]


def test_three_oxidation_numbers_in_one_element():
    """{2, 4, 7} reaches 13 with three atoms only as 2 + 4 + 7."""
    table = OxidationTable("own", {25: (2, 4, 7), 9: (-1,)})
    assert neutral_assignment({25: 3, 9: 13}, table) == {25: {2: 1, 4: 1, 7: 1}, 9: {-1: 13}}


def test_several_elements_of_mixed_valence():
    table = OxidationTable("own", {26: (0, 9), 8: (-6, 0), 16: (-3, 5)})
    counts = {26: 2, 8: 2, 16: 2}
    mixed = {}
    for charge in range(-18, 29):
        expected = brute_force(counts, table, charge)
        assignment = neutral_assignment(counts, table, total_charge=charge)
        assert (assignment is None) == (expected is None)
        if assignment is not None:
            mixed[charge] = sum(len(split) > 1 for split in assignment.values())
            assert mixed[charge] == expected
    assert set(mixed.values()) == {0, 1, 2, 3}


def test_mixed_valence_of_one_element_uses_up_the_allowance():
    """Lithium or oxygen must be mixed here; once oxygen is, lithium need not and must not be."""
    table = OxidationTable("own", {3: (-4, 0, 3), 8: (-6, 6), 16: (-1, 2, 6), 26: (1, 4)})
    counts = {3: 3, 8: 3, 16: 1, 26: 1}
    assignment = neutral_assignment(counts, table)
    check(assignment, counts, table)
    assert sum(len(split) > 1 for split in assignment.values()) == 1


def test_mixed_valence_prefers_close_oxidation_numbers():
    """Mn+2(3) Mn+7(7) and Mn+4(5) Mn+7(5) both balance 55 F-1; all three are common."""
    assignment = neutral_assignment({25: 10, 9: 55}, OxidationTable("o", {25: (2, 4, 7), 9: (-1,)}))
    assert assignment == {25: {4: 5, 7: 5}, 9: {-1: 55}}


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("CsPbI3", "Cs+1 Pb+2 I-1"),
        ("SrTiO3", "Sr+2 Ti+4 O-2"),
        ("Fe3O4", "Fe+2(1) Fe+3(2) O-2(4)"),
        ("Pb3O4", "Pb+2(2) Pb+4(1) O-2(4)"),
        ("Sb2O4", "Sb+3(1) Sb+5(1) O-2(4)"),
        ("Eu3S4", "Eu+2(1) Eu+3(2) S-2(4)"),
        ("CS2", "C+4 S-2"),
        ("CH4", "H+1 C-4"),
        ("Fe2O3", "Fe+3 O-2"),
    ],
)
def test_known_compounds(formula, text):
    assert format_assignment(neutral_assignment(Composition(formula), _SMOACS)) == text


@pytest.mark.parametrize(
    ("formula", "text"),
    [("ICl", "I+1 Cl-1"), ("CsAu", "Cs+1 Au-1"), ("BaO2", "Ba+2 O-1"), ("PbO2", "Pb+4 O-2")],
)
def test_plausible_choice_in_a_generous_table(formula, text):
    assignment = neutral_assignment(Composition(formula), oxidation_table("smact14"))
    assert format_assignment(assignment) == text


@pytest.mark.parametrize("formula", ["AlNi", "Fe", "Cu3Au", "CsPbI4", "ArO", "NaCl2"])
def test_impossible(formula):
    assert neutral_assignment(Composition(formula), _SMOACS) is None
    assert not is_neutral(Composition(formula), _SMOACS)


@pytest.mark.parametrize("name", OXIDATION_TABLES)
@pytest.mark.parametrize(
    "formula",
    ["CsPbI3", "Fe3O4", "SrTiO3", "LiMn2O4", "NaCl2", "AlNi", "BaBiO3", "TlZnCl3", "Cu5FeS4"],
)
def test_agrees_with_pymatgen(name, formula):
    table, composition = oxidation_table(name), Composition(formula)
    listed = {element.symbol: list(table.states_of(element.Z)) for element in composition}
    guesses = (
        composition.oxi_state_guesses(oxi_states_override=listed) if all(listed.values()) else ()
    )
    assert is_neutral(composition, table) == bool(guesses)


@pytest.mark.parametrize("formula", ["CsPbI3", "SrTiO3", "NaCl2", "Fe2O3", "CuFeS2", "TiMnO3"])
def test_patterns_agree_with_smact(formula):
    table, composition = oxidation_table("smact14"), Composition(formula)
    counts = sorted(element_counts(composition).items())
    amounts = [(n,) for _, n in counts]
    expected = {
        states
        for states in itertools.product(*(table.states_of(z) for z, _ in counts))
        if neutral_ratios(states, stoichs=amounts)
    }
    assert set(neutral_patterns(counts, table, limit=1000)) == expected


def test_patterns_put_common_oxidation_numbers_first():
    counts = [(55, 1), (82, 1), (53, 3)]
    patterns = neutral_patterns(counts, oxidation_table("smact14"))
    assert patterns[0] == (1, 2, -1)
    rare = [
        sum(n * rarity(z, state) for (z, n), state in zip(counts, states, strict=True))
        for states in patterns
    ]
    assert rare == sorted(rare)
    assert len(patterns) <= 10


def test_patterns_limit_and_unlisted_elements():
    counts = [(26, 2), (29, 2), (16, 4)]
    assert len(neutral_patterns(counts, oxidation_table("smact14"), limit=3)) == 3
    assert neutral_patterns([(18, 1), (8, 1)], _SMOACS) == []


def test_patterns_follow_the_order_of_the_counts():
    assert neutral_patterns([(53, 3), (82, 1), (55, 1)], _SMOACS)[0] == (-1, 2, 1)


def test_first_pattern_is_the_assignment_without_mixed_valence():
    rng = random.Random(0)
    table = oxidation_table("smact14")
    compared = 0
    for _ in range(200):
        counts = {z: rng.randint(1, 40) for z in rng.sample(sorted(table.states), 4)}
        assignment = neutral_assignment(counts, table)
        if assignment is not None and all(len(split) == 1 for split in assignment.values()):
            states = tuple(next(iter(split)) for split in assignment.values())
            assert neutral_patterns([(z, counts[z]) for z in assignment], table)[0] == states
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("cations", [50, 400])
@pytest.mark.parametrize("name", OXIDATION_TABLES)
def test_large_cells(cations, name):
    """About 135 and 1,000 atoms, neutral by construction with mixed valence everywhere."""
    rng = random.Random(cations)
    table = oxidation_table(name)
    positive = {
        z: [s for s in states if s > 0]
        for z, states in table.states.items()
        if z not in (8, 9) and max(states) > 0
    }
    for _ in range(10):
        elements = rng.choices(rng.sample(sorted(positive), rng.randint(1, 6)), k=cations)
        charge = sum(rng.choice(positive[z]) for z in elements)
        anions = [8] * (charge // 2) + [9] * (charge % 2)
        counts = element_counts(elements + anions)
        check(neutral_assignment(counts, table), counts, table)


def test_parity_decides_at_135_atoms():
    """27 Cs+1 and 27 Pb+2 need exactly 81 I-1; one Cs replaced by Sr leaves a charge of one."""
    assert is_neutral(
        {55: 27, 82: 27, 53: 81}, OxidationTable("o", {55: (1,), 82: (2,), 53: (-1,)})
    )
    table = OxidationTable("o", {55: (1,), 38: (2,), 82: (2, 4), 53: (-1,)})
    assert not is_neutral({55: 26, 38: 1, 82: 27, 53: 81}, table)


def test_total_charge():
    assert neutral_assignment({8: 4, 16: 1}, _SMOACS, total_charge=-2) == {16: {6: 1}, 8: {-2: 4}}


def test_assign_sites():
    numbers = [8, 26, 8, 26, 8, 26, 8]
    assert assign_sites(numbers, _SMOACS) == [-2, 2, -2, 3, -2, 3, -2]
    assert assign_sites([26, 28], _SMOACS) is None


def test_element_counts_of_all_kinds():
    structure = Structure(Lattice.cubic(4), ["Sr", "Ti", "O", "O", "O"], [[0, 0, 0]] * 5)
    expected = {8: 3, 22: 1, 38: 1}
    oxides = Composition({"Sr2+": 1, "Ti4+": 1, "O2-": 3})
    for crystal in (structure, structure.composition, oxides, structure.atomic_numbers, expected):
        assert element_counts(crystal) == expected
        assert is_neutral(crystal, _SMOACS)


@pytest.mark.parametrize(
    ("crystal", "message"),
    [
        (Composition("Fe0.5O"), "whole atoms, got 0.5 of Fe"),
        ({8: 0}, "whole atoms, got 0 of O"),
        ([8, 99], "got 99"),
        ([], "at least one atom"),
    ],
)
def test_element_counts_rejects(crystal, message):
    with pytest.raises(ValueError, match=message):
        element_counts(crystal)
