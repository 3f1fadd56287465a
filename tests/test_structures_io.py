from __future__ import annotations

import json
import lzma

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from smoacs.structures_io import cell_matrix, read_records, read_structures

CELL = (4.1, 5.2, 6.3, 81.0, 97.0, 104.0)


@pytest.fixture
def crystal() -> Structure:
    return Structure(
        Lattice.from_parameters(*CELL),
        ["Na", "Cl", "O"],
        [[0, 0, 0], [0.5, 0.4, 0.6], [0.1, 0.8, 0.3]],
    )


def row(structure: Structure, **extra) -> dict:
    return {
        "lattice": [*structure.lattice.abc, *structure.lattice.angles],
        "species": [site.specie.symbol for site in structure],
        "frac_coords": structure.frac_coords.tolist(),
        **extra,
    }


def assert_same(read: Structure, wanted: Structure, tolerance: float = 1e-5) -> None:
    assert read.species == wanted.species
    np.testing.assert_allclose(read.lattice.parameters, wanted.lattice.parameters, atol=tolerance)
    np.testing.assert_allclose(read.distance_matrix, wanted.distance_matrix, atol=tolerance)


@pytest.mark.parametrize("name", ["x.cif", "x.vasp", "POSCAR_x", "x.xyz", "x.extxyz"])
def test_reads_single_crystal_formats(tmp_path, crystal, name):
    path = tmp_path / name
    if "xyz" in name:
        crystal.to_ase_atoms().write(path, format="extxyz")
    else:
        crystal.to(str(path), fmt="cif" if name.endswith("cif") else "poscar")
    [(label, read)] = read_structures(path)
    assert label == path.stem
    assert_same(read, crystal)


def test_reads_frames_of_extended_xyz(tmp_path, crystal):
    from ase.io import write

    bigger = crystal.copy()
    bigger.apply_strain(0.1)
    write(tmp_path / "two.xyz", [crystal.to_ase_atoms(), bigger.to_ase_atoms()], format="extxyz")
    found = read_structures(tmp_path / "two.xyz")
    assert [name for name, _ in found] == ["two-0", "two-1"]
    assert_same(found[1].structure, bigger)


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.xz"])
def test_reads_json_lines_with_both_kinds_of_cells(tmp_path, crystal, name):
    matrix = row(crystal, id="second", lattice_matrix=crystal.lattice.matrix.tolist())
    del matrix["lattice"]
    text = json.dumps(row(crystal, id="first", band_gap=1.5)) + "\n\n" + json.dumps(matrix) + "\n"
    opener = lzma.open if name.endswith("xz") else open
    with opener(tmp_path / name, "wt") as file:
        file.write(text)
    found = read_structures(tmp_path / name)
    assert [label for label, _ in found] == ["first", "second"]
    for _, read in found:
        assert_same(read, crystal)
    assert next(read_records(tmp_path / name))["band_gap"] == 1.5


def test_cell_matrix_agrees_with_pymatgen():
    rng = np.random.default_rng(0)
    for _ in range(20):
        lattice = Lattice(rng.normal(size=(3, 3)) * 4)
        matrix = cell_matrix({"lattice": lattice.parameters})
        np.testing.assert_allclose(Lattice(matrix).parameters, lattice.parameters, rtol=1e-9)
        assert np.linalg.det(matrix) > 0


def test_flat_cell_is_refused():
    with pytest.raises(ValueError, match="span no volume"):
        cell_matrix({"lattice": [3, 3, 3, 60, 60, 130]})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.cif", None, "there is no structure file"),
        ("absent.jsonl", None, "there is no structure file"),
        ("broken.cif", "data_x\n_cell_length_a nonsense\n", "broken.cif cannot be read"),
        ("broken.vasp", "one line", "broken.vasp cannot be read"),
        ("broken.xyz", "2\nnothing\nH 0 0\n", "cannot be read as extended XYZ"),
        ("molecule.xyz", "1\n\nH 0 0 0\n", "three-dimensional cell"),
        ("notes.txt", "hello", "not a known structure file"),
        ("empty.jsonl", "", "holds no structure"),
        ("bad.jsonl", "{", "line 1 is not valid JSON"),
        ("bad.jsonl", '{"species": ["H"]}', "line 1 lacks frac_coords, lattice"),
        (
            "bad.jsonl",
            '{"species": ["H"], "frac_coords": [[0,0,0],[0,0,0]], "lattice": [1,1,1,90,90,90]}',
            "1 species for 2 coordinates",
        ),
        (
            "bad.jsonl",
            '{"species": ["Q"], "frac_coords": [[0,0,0]], "lattice": [1,1,1,90,90,90]}',
            "crystal bad cannot be read",
        ),
    ],
)
def test_unreadable_files_get_one_clear_sentence(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_structures(path)
    assert "\n" not in str(caught.value)
    assert name.split(".")[0] in str(caught.value)
