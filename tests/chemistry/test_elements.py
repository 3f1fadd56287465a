from __future__ import annotations

import subprocess
import sys

import ase.data
import pytest

from smoacs.chemistry import atomic_number, parse_elements, select_elements, symbol, symbols


def test_symbols_are_those_of_ase():
    assert list(symbols) == ase.data.chemical_symbols[1:99]
    assert [atomic_number(symbol(z)) for z in range(1, 99)] == list(range(1, 99))


@pytest.mark.parametrize("z", [0, -1, 99])
def test_symbol_out_of_range(z):
    with pytest.raises(ValueError, match=rf"1 to 98.*got {z}"):
        symbol(z)


@pytest.mark.parametrize("text", ["Cs,Sn,I", " Cs , Sn,I,", ["Cs", "Sn", "I"], ("I", "Sn", "Cs")])
def test_parse_elements(text):
    assert parse_elements(text) == {55, 50, 53}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Cs,Snn,I", "unknown element 'Snn': did you mean 'Sn'"),
        ("pb", "unknown element 'pb': did you mean 'Pb'"),
        ("Qq", "unknown element 'Qq'"),
        ("CsPbI3", "unknown element 'CsPbI3'"),
        ("", "no element in ''"),
        ([], r"no element in \[\]"),
    ],
)
def test_parse_elements_names_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        parse_elements(text)


def test_parse_elements_wants_symbols():
    with pytest.raises(TypeError, match=r"by symbol.*got 55"):
        parse_elements([55])


def test_select_elements():
    assert select_elements() == set(range(1, 99))
    assert select_elements("Cs,I") == {55, 53}
    assert select_elements(exclude=["Pb", "Cd"]) == set(range(1, 99)) - {82, 48}
    assert select_elements("Cs,I", "Pb") == {55, 53}


def test_select_elements_contradictions():
    with pytest.raises(ValueError, match="both allowed and excluded: I, Cs"):
        select_elements("Cs,Sn,I", "Cs,I")
    with pytest.raises(ValueError, match="leave at least one"):
        select_elements(exclude=symbols)


def test_import_stays_light():
    code = (
        "import sys, smoacs.chemistry; "
        "print([m for m in ('pymatgen', 'smact', 'ase', 'torch', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
