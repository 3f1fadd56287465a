"""CrystalBatch: exchange with pymatgen and ASE, selection, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Lattice, Structure

from smoacs.crystals import CrystalBatch, ragged_rows, sum_by_crystal


@pytest.fixture
def structures() -> list[Structure]:
    triclinic = Lattice.from_parameters(4, 5, 6, 80, 95, 110)
    return [
        Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]),
        Structure(triclinic, ["Cs"], [[0.25, -0.3, 1.7]]),
        Structure(Lattice.hexagonal(3, 5), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5]]),
    ]


def test_pymatgen_round_trip(structures) -> None:
    batch = CrystalBatch.from_structures(structures, dtype=torch.float64)
    assert len(batch) == 3
    assert batch.n_sites.tolist() == [3, 1, 2]
    assert batch.crystal_index.tolist() == [0, 0, 0, 1, 2, 2]
    for original, copy in zip(structures, batch.to_structures(), strict=True):
        assert np.allclose(copy.lattice.matrix, original.lattice.matrix)
        assert [s.specie for s in copy] == [s.specie for s in original]
        assert np.allclose((copy.frac_coords - original.frac_coords) % 1 % 1, 0, atol=1e-12)
    assert np.allclose(batch.volume.numpy(), [s.volume for s in structures])
    carts = np.concatenate([s.cart_coords for s in structures])
    assert np.allclose(batch.cart_coords.numpy(), carts)


def test_coordinates_stay_unwrapped(structures) -> None:
    batch = CrystalBatch.from_structures(structures)
    assert batch.frac_coords[3].tolist() == pytest.approx([0.25, -0.3, 1.7])


def test_ase_round_trip() -> None:
    atoms = [bulk("NaCl", "rocksalt", a=5.64), bulk("Cu")]
    batch = CrystalBatch.from_ase(atoms, dtype=torch.float64)
    for original, copy in zip(atoms, batch.to_ase(), strict=True):
        assert copy.get_chemical_formula() == original.get_chemical_formula()
        assert np.allclose(copy.cell.array, original.cell.array)
        assert copy.pbc.all()


def test_select_repeats_and_is_differentiable(structures) -> None:
    batch = CrystalBatch.from_structures(structures, dtype=torch.float64)
    batch.frac_coords.requires_grad_()
    chosen = batch.select([2, 0, 2])
    assert chosen.ptr.tolist() == [0, 2, 5, 7]
    chosen.frac_coords.sum().backward()
    assert batch.frac_coords.grad[:, 0].tolist() == [1, 1, 1, 0, 2, 2]


def test_ragged_rows_of_nothing() -> None:
    rows, ptr = ragged_rows(torch.tensor([0, 2, 5]), torch.tensor([], dtype=torch.int64))
    assert rows.numel() == 0
    assert ptr.tolist() == [0]


def test_disordered_sites_become_distributions() -> None:
    mixed = Structure(Lattice.cubic(4), [{"Na": 0.25, "K": 0.75}], [[0, 0, 0]])
    row = CrystalBatch.from_structures([mixed]).composition[0]
    assert row[10] == pytest.approx(0.25)
    assert row[18] == pytest.approx(0.75)


def test_bad_structures_are_named(structures) -> None:
    vacant = Structure(Lattice.cubic(4), [{"Na": 0.5}], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"structure 1 has a site occupied by 0.500 atoms"):
        CrystalBatch.from_structures([structures[0], vacant])
    with pytest.raises(ValueError, match="structure 0 holds atomic number 101"):
        CrystalBatch.from_ase([Atoms("Md", cell=[4, 4, 4], pbc=True)])
    with pytest.raises(ValueError, match="no three-dimensional cell"):
        CrystalBatch.from_ase([Atoms("Cu")])
    with pytest.raises(ValueError, match="at least one structure"):
        CrystalBatch.from_structures([])


@pytest.mark.parametrize("shape", [(9,), (9, 70)])
def test_sums_by_crystal(shape: tuple[int, ...]) -> None:
    ptr = torch.tensor([0, 2, 2, 9])
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sums = sum_by_crystal(values, ptr)
    torch.testing.assert_close(
        sums, torch.stack([values[:2].sum(0), values[2:2].sum(0), values[2:].sum(0)])
    )
    # What a GPU runs adds up in the same order.
    other = torch.segment_reduce(values, "sum", offsets=ptr, axis=0, unsafe=True)
    assert torch.equal(sums, other)
    weights = torch.randn(sums.shape, generator=torch.Generator().manual_seed(1))
    grads = [torch.autograd.grad(x, values, weights)[0] for x in (sums, other)]
    assert torch.equal(*grads)


@pytest.mark.cuda
def test_sums_by_crystal_are_the_same_on_a_gpu() -> None:
    values, ptr = torch.randn(900, 70), torch.tensor([0, 1, 450, 900])
    assert torch.equal(sum_by_crystal(values.cuda(), ptr.cuda()).cpu(), sum_by_crystal(values, ptr))
