"""Lattice attention equals its formula, and an atom's results do not depend on the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from smoacs.ops import TermOwners, lattice_attention

# Float32 of exponents up to 100, whose rounding the sums magnify.
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-12}
GAP = 3  # terms that no atom owns, after each atom


@dataclass
class Case:
    floats: tuple[Tensor, ...]  # pair_logits, decay, lengths, squares
    owners: TermOwners
    centers: Tensor
    width: float
    reach: Tensor | None
    grads: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls,
        term_count: list[int],
        pair_count: list[int],
        heads: int = 8,
        functions: int = 64,
        relative_width: float = 1.0,
        reaching: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> Case:
        generator = torch.Generator().manual_seed(sum(term_count) + heads + functions)

        def rand(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

        terms, pairs = torch.tensor(term_count), torch.tensor(pair_count)
        # The last atom's come first.
        rows = (terms + GAP).flip(0)
        first_term = (rows.cumsum(0) - rows).flip(0)
        first_pair = (pairs.flip(0).cumsum(0) - pairs.flip(0)).flip(0)
        n_terms, n_pairs, n_atoms = int(rows.sum()), int(pairs.sum()), len(terms)
        pair = torch.full((n_terms,), n_pairs)
        for a in range(n_atoms):
            own = slice(int(first_term[a]), int(first_term[a] + terms[a]))
            pair[own] = first_pair[a] + (rand(int(terms[a])) * pairs[a]).long()
        lengths = 8 * rand(n_terms)
        lengths[first_term] = 0.0
        spacing = 7.0 / functions
        return cls(
            (
                6 * rand(n_pairs, heads) - 3,
                -0.1 - 1.5 * rand(n_atoms, heads),
                lengths,
                lengths.square() * (1 + rand(n_terms)),
            ),
            TermOwners(first_term, terms, first_pair, pairs, pair),
            spacing * torch.arange(1, functions + 1).to(dtype),
            relative_width * spacing,
            # The first term is always seen.
            (2 * rand(n_terms)).index_fill(0, first_term, 0.0) if reaching else None,
            (rand(n_pairs, heads) - 0.5, rand(n_atoms, heads, functions) - 0.5),
        )

    def results(self) -> tuple[Tensor, ...]:
        return with_gradients(lattice_attention, self)


def plain(
    pair_logits: Tensor,
    decay: Tensor,
    lengths: Tensor,
    squares: Tensor,
    owners: TermOwners,
    centers: Tensor,
    width: float,
    reach: Tensor | None,
) -> tuple[Tensor, Tensor]:
    weights, radial = torch.zeros_like(pair_logits), []
    for a in range(len(decay)):
        start = int(owners.first_term[a])
        own = slice(start, start + int(owners.term_count[a]))
        pair = owners.pair[own]
        exponents = pair_logits[pair] + decay[a] * squares[own, None]
        if reach is not None:
            hidden = (-0.5 / decay[a].detach()).sqrt() <= reach[own, None]
            exponents = exponents.masked_fill(hidden, -torch.inf)
        weight = exponents.softmax(0)
        basis = torch.exp(-((lengths[own, None] - centers) ** 2) / (2 * width**2))
        weights = weights.index_add(0, pair, weight)
        radial.append(weight.T @ basis)
    return weights, torch.stack(radial)


def with_gradients(function: object, case: Case) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in case.floats]
    out = function(*leaves, case.owners, case.centers, case.width, case.reach)  # type: ignore[operator]
    return *(o.detach() for o in out), *torch.autograd.grad(out, leaves, case.grads)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reaching", [False, True])
@pytest.mark.parametrize(
    ("heads", "functions", "relative_width"),
    [(8, 64, 1.0), (1, 1, 1.0), (11, 20, 0.3), (2, 16, 4.0), (16, 100, 1.7), (8, 7, 0.02)],
)
def test_equals_the_formula(
    heads: int, functions: int, relative_width: float, reaching: bool, dtype: torch.dtype
) -> None:
    """Atoms with one term, with more pairs than terms, with many terms of one pair."""
    case = Case.of(
        [1, 40, 7, 3000, 3], [1, 2, 30, 1, 3], heads, functions, relative_width, reaching, dtype
    )
    for found, expected in zip(case.results(), with_gradients(plain, case), strict=True):
        tolerance = TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_common_logit_changes_little(shift: float, dtype: torch.dtype) -> None:
    case = Case.of([30, 20], [3, 2], dtype=dtype)
    moved = replace(case, floats=(case.floats[0] + shift, *case.floats[1:]))
    for found, expected in zip(moved.results(), with_gradients(plain, moved), strict=True):
        tolerance = 300 * TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_atom_does_not_depend_on_the_rest(threads: int, dtype: torch.dtype) -> None:
    counts = [40, 1, 700, 33] + [50] * 100
    case = Case.of(counts, [5] * len(counts), heads=11, dtype=dtype)
    whole = case.results()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for found, expected in zip(case.results(), whole, strict=True):
            assert torch.equal(found, expected)
        for a in (0, 1, 2, 3, 60, 103):
            atoms, pairs = slice(a, a + 1), slice(int(case.owners.first_pair[a]), None)
            pairs = slice(pairs.start, pairs.start + 5)
            start = int(case.owners.first_term[a])
            terms = slice(start, start + counts[a])
            rows = (pairs, atoms, terms, terms)
            zero, one = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
            alone = replace(
                case,
                floats=tuple(x[row].clone() for x, row in zip(case.floats, rows, strict=True)),
                owners=TermOwners(
                    zero, counts[a] * one, zero, 5 * one, case.owners.pair[terms] - pairs.start
                ),
                grads=(case.grads[0][pairs], case.grads[1][atoms]),
            )
            for found, expected, row in zip(
                alone.results(), whole, (pairs, atoms, *rows), strict=True
            ):
                assert torch.equal(found, expected[row])
    finally:
        torch.set_num_threads(before)


def test_gradients_are_those_of_finite_differences() -> None:
    case = Case.of([1, 6, 9], [1, 2, 3], heads=3, functions=6)
    leaves = [x.clone().requires_grad_() for x in case.floats]
    assert torch.autograd.gradcheck(
        lambda *x: lattice_attention(*x, case.owners, case.centers, case.width), leaves
    )


def test_terms_without_atom_have_no_gradient() -> None:
    case = Case.of([4, 5], [2, 2])
    *_, grad_lengths, grad_squares = case.results()
    unowned = case.owners.pair == int(case.owners.pair_count.sum())
    assert int(unowned.sum()) == 2 * GAP
    assert not grad_lengths[unowned].any()
    assert not grad_squares[unowned].any()


def test_the_operators_are_declared_well() -> None:
    for reaching in (False, True):
        case = Case.of([3, 8], [2, 3], heads=3, functions=6, reaching=reaching)
        leaves = [x.clone().requires_grad_() for x in case.floats]
        torch.library.opcheck(
            torch.ops.smoacs.lattice_attention.default,
            (*leaves, list(case.owners), case.centers, case.width, case.reach),
        )


def test_wrong_input() -> None:
    case = Case.of([3, 8], [2, 3])
    logits, decay, lengths, squares = case.floats
    rest = case.owners, case.centers, case.width
    with pytest.raises(ValueError, match=r"decay must have shape \(2, 8\), got \(5, 8\)"):
        lattice_attention(logits, logits, lengths, squares, *rest)
    with pytest.raises(ValueError, match=r"squares must have shape \(17\), got \(16,\)"):
        lattice_attention(logits, decay, lengths, squares[1:], *rest)
    with pytest.raises(TypeError, match="decay must be float64, got float32"):
        lattice_attention(logits, decay.float(), lengths, squares, *rest)
    with pytest.raises(ValueError, match="width must be positive"):
        lattice_attention(*case.floats, case.owners, case.centers, 0.0)
    for centers in (case.centers.flip(0), case.centers.square(), 0 * case.centers):
        with pytest.raises(ValueError, match="centers must ascend by even steps"):
            lattice_attention(*case.floats, case.owners, centers, case.width)
    for name in ("first_term", "term_count", "first_pair", "pair_count", "pair"):
        for wrong in (-1, 40):
            index = getattr(case.owners, name).clone()
            index[int(case.owners.first_term[1]) if name == "pair" else 1] = wrong
            with pytest.raises(ValueError, match="are not there"):
                lattice_attention(
                    *case.floats, case.owners._replace(**{name: index}), case.centers, case.width
                )
