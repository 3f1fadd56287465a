"""Cosines of bond pairs equal plain torch, forward and backward, whatever the pairs."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cells import CELLS
from smoacs.ops import (
    Incidence,
    edge_vectors,
    line_graph,
    neighbor_list,
    pair_cosines,
    reference,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
}


class Case(NamedTuple):
    """Bonds, the bonds of each pair, and the gradient of the cosines."""

    vectors: Tensor
    ends: tuple[Tensor, Tensor]
    grad: Tensor

    @property
    def pairs(self) -> Incidence:
        return Incidence.of(*self.ends, len(self.vectors))


def case(
    n_bonds: int, n_pairs: int, device: str = "cpu", dtype: torch.dtype = torch.float64
) -> Case:
    generator = torch.Generator().manual_seed(n_bonds + 7 * n_pairs)
    vectors = torch.randn(n_bonds, 3, generator=generator, dtype=torch.float64)
    grad = torch.randn(n_pairs, generator=generator, dtype=torch.float64)
    src, dst = torch.randint(0, max(n_bonds, 1), (2, n_pairs), generator=generator).to(device)
    return Case(vectors.to(device, dtype).requires_grad_(), (src, dst), grad.to(device, dtype))


def both(inputs: Case, *, plain: bool = False) -> tuple[Tensor, Tensor]:
    """Cosines and the gradient of the vectors."""
    cosines = (
        reference.pair_cosines(inputs.vectors, *inputs.ends)
        if plain
        else pair_cosines(inputs.vectors, inputs.pairs)
    )
    return cosines.detach(), *torch.autograd.grad(cosines, inputs.vectors, inputs.grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n_bonds", "n_pairs"), [(0, 0), (1, 0), (1, 3), (9, 60), (300, 5000)])
def test_equals_reference(n_bonds: int, n_pairs: int, dtype: torch.dtype, device: str) -> None:
    inputs = case(n_bonds, n_pairs, device, dtype)
    # One bond with itself is clamped or not by the last bit; its gradient is zero either way.
    torch.testing.assert_close(both(inputs), both(inputs, plain=True), **TOLERANCE[dtype])


@settings(max_examples=30, deadline=None)
@given(n_bonds=st.integers(1, 12), n_pairs=st.integers(0, 60))
def test_equals_reference_for_any_pairs(n_bonds: int, n_pairs: int) -> None:
    inputs = case(n_bonds, n_pairs)
    torch.testing.assert_close(both(inputs), both(inputs, plain=True), **TOLERANCE[torch.float64])


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_are_those_of_finite_differences(device: str) -> None:
    inputs = case(6, 20, device)
    pairs = inputs.pairs
    assert torch.autograd.gradcheck(lambda v: pair_cosines(v, pairs), inputs.vectors)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_straight_and_reversed_bonds(dtype: torch.dtype, device: str) -> None:
    """A pair that goes back has the cosine 1, one that goes straight on -1; no gradient is lost."""
    back = case(40, 0, device, dtype).vectors.detach()
    vectors = torch.cat([back, -back, 1.7 * back]).requires_grad_()
    first = torch.arange(40, device=device)
    pairs = Incidence.of(first.repeat(2), torch.cat([first + 40, first + 80]), 120)
    cosines = pair_cosines(vectors, pairs)
    one = torch.ones(40, dtype=dtype, device=device)
    torch.testing.assert_close(cosines.detach(), torch.cat([one, -one]))
    assert cosines.abs().max() <= 1
    (grad,) = torch.autograd.grad(cosines.sum(), vectors)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_rotations_change_nothing(device: str) -> None:
    inputs = case(30, 400, device)
    axes = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(axes).Q.to(device)
    turned = inputs._replace(vectors=(inputs.vectors.detach() @ rotation).requires_grad_())
    cosines, grad = both(inputs)
    found, found_grad = both(turned)
    torch.testing.assert_close(found, cosines)
    torch.testing.assert_close(found_grad, grad @ rotation)
    # Nor do lengths: the gradient has no part along the bond.
    assert (grad * inputs.vectors).sum(1).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_neither_batch_nor_threads_matter(dtype: torch.dtype) -> None:
    cases = [case(*size, dtype=dtype) for size in ((300, 20000), (1, 14), (700, 30000), (5, 0))]
    offsets = torch.tensor([0, *(len(c.vectors) for c in cases)]).cumsum(0).tolist()
    whole = Case(
        torch.cat([c.vectors for c in cases]),
        tuple(
            torch.cat([ends + start for ends, start in zip(parts, offsets[:-1], strict=True)])
            for parts in zip(*(c.ends for c in cases), strict=True)
        ),
        torch.cat([c.grad for c in cases]),
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = both(whole)
        torch.set_num_threads(1)
        for found, parts in zip(together, zip(*map(both, cases), strict=True), strict=True):
            assert torch.equal(found, torch.cat(parts))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n_bonds", "n_pairs"), [(0, 0), (1, 4), (9, 60)])
def test_rows_that_are_no_pairs_take_no_part(n_bonds: int, n_pairs: int, device: str) -> None:
    inputs = case(n_bonds, n_pairs, device)
    wanted = both(inputs)
    at = torch.randperm(n_pairs + 25, generator=torch.Generator().manual_seed(0))[:n_pairs]
    at = at.sort().values.to(device)  # padding between the pairs, not only behind them

    def spread(rows: Tensor, fill: float) -> Tensor:
        return rows.new_full((n_pairs + 25,), fill).index_copy(0, at, rows)

    padded = Case(
        inputs.vectors,
        tuple(spread(ends, n_bonds) for ends in inputs.ends),
        spread(inputs.grad, torch.nan),
    )
    cosines, grad = both(padded)
    assert torch.equal(cosines, spread(wanted[0], 0.0))
    assert torch.equal(grad, wanted[1])


@pytest.mark.parametrize("device", DEVICES)
def test_bonds_without_length_have_no_gradient(device: str) -> None:
    inputs = case(5, 40, device)
    with torch.no_grad():
        inputs.vectors[2] = 0
    cosines, grad = both(inputs)
    touched = (inputs.ends[0] == 2) | (inputs.ends[1] == 2)
    assert touched.any()
    assert (cosines[touched] == 0).all()
    assert (grad[2] == 0).all()
    assert torch.isfinite(cosines).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrong", [6, 7, -1, 2**62, -(2**62)])
def test_bonds_that_are_not_there_give_nan_and_are_not_followed(wrong: int, device: str) -> None:
    inputs = case(6, 40, device)
    src, dst = (ends % 4 for ends in inputs.ends)  # bonds 4 and 5 are in one pair each
    src[7], dst[7], src[20], dst[20] = wrong, 4, 5, wrong
    rows = []
    for ends in (src, dst):  # as a GPU sorts them, which cannot check them in time
        ordered, order = torch.sort(ends.where(ends >= 0, 6), stable=True)
        rows += [order, torch.searchsorted(ordered, torch.arange(7, device=device))]
    cosines = pair_cosines(inputs.vectors, Incidence(src, dst, *rows))
    (grad,) = torch.autograd.grad(cosines, inputs.vectors, inputs.grad)
    assert torch.nonzero(cosines.isnan()).flatten().tolist() == [7, 20]
    assert grad[4:].isnan().all()
    rest = torch.tensor([p for p in range(40) if p not in (7, 20)], device=device)
    wanted = both(Case(inputs.vectors, (src[rest], dst[rest]), inputs.grad[rest]), plain=True)
    torch.testing.assert_close(cosines[rest].detach(), wanted[0])
    torch.testing.assert_close(grad[:4], wanted[1][:4])


@pytest.mark.parametrize("device", DEVICES)
def test_lists_with_a_capacity_give_what_others_give(device: str) -> None:
    coords, lattice, ptr = CELLS["ragged batch"].to(device, torch.float64)
    coords = coords.clone().requires_grad_()

    def run(*capacities: int | None) -> tuple[Tensor, Tensor]:
        bonds = neighbor_list(coords, lattice, ptr, cutoff=3.5, capacity=capacities[0])
        pairs = line_graph(bonds, capacity=capacities[1])
        incidence = Incidence.of(pairs.src, pairs.dst, len(bonds.src))
        cosines = pair_cosines(edge_vectors(coords, lattice, bonds), incidence)
        return cosines, *torch.autograd.grad(cosines.square().sum(), coords)

    wanted, grad = run(None, None)
    found, roomy_grad = run(2000, 50000)
    assert len(found) > len(wanted)
    assert torch.equal(found[: len(wanted)], wanted)
    assert (found[len(wanted) :] == 0).all()
    assert torch.equal(roomy_grad, grad)


@pytest.mark.cuda
def test_cuda_repeats_itself_and_equals_the_cpu() -> None:
    on_gpu = case(2000, 30000, "cuda", torch.float32)
    first, again = both(on_gpu), both(on_gpu)
    assert all(map(torch.equal, first, again))
    for found, wanted in zip(first, both(case(2000, 30000, "cpu", torch.float32)), strict=True):
        assert torch.equal(found.cpu(), wanted)


def test_operators_are_sound() -> None:
    inputs = case(5, 12)
    torch.library.opcheck(torch.ops.smoacs.pair_cosines, (inputs.vectors, *inputs.pairs))
    _, directions = torch.ops.smoacs.pair_cosines(inputs.vectors.detach(), *inputs.pairs)
    torch.library.opcheck(
        torch.ops.smoacs.pair_cosines_backward, (inputs.grad, directions, *inputs.pairs)
    )


def test_second_derivative_is_refused() -> None:
    inputs = case(5, 12)
    cosines = pair_cosines(inputs.vectors, inputs.pairs)
    (grad,) = torch.autograd.grad(cosines.sum(), inputs.vectors, create_graph=True)
    with pytest.raises(RuntimeError, match="no derivative"):
        torch.autograd.grad(grad.sum(), inputs.vectors)


def test_bad_input() -> None:
    inputs = case(5, 12)
    with pytest.raises(ValueError, match=r"vectors must have shape \(5, 3\)"):
        pair_cosines(inputs.vectors[:4], inputs.pairs)
    with pytest.raises(TypeError, match="vectors must be float32 or float64"):
        pair_cosines(inputs.vectors.half(), inputs.pairs)
