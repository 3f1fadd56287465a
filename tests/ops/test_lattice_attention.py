"""Lattice attention equals its formula, and a crystal's results do not depend on the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from smoacs.ops import lattice_attention

# Float32 of exponents up to 100, whose rounding the sums magnify.
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-12}
NAMES = ("vectors", "decay", "added", "lengths", "squares")


@dataclass
class Case:
    floats: tuple[Tensor, ...]  # by name
    image_of: Tensor
    first_term: Tensor
    ptr: Tensor
    centers: Tensor
    width: float
    reach: Tensor | None
    grad: Tensor

    @classmethod
    def of(
        cls,
        crystals: list[list[int]],  # number of terms of each atom
        heads: int = 8,
        head_width: int = 6,
        functions: int = 64,
        relative_width: float = 1.0,
        reaching: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> Case:
        counts = torch.tensor([n for atoms in crystals for n in atoms], dtype=torch.int64)
        n_terms, n_atoms = int(counts.sum()), len(counts)
        generator = torch.Generator().manual_seed(n_terms + heads + functions)

        def rand(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

        sizes = torch.tensor([len(atoms) for atoms in crystals])
        ptr = offsets(sizes)
        size, first = (x.repeat_interleave(sizes) for x in (sizes, ptr[:-1]))
        image_of = (rand(n_terms) * size.repeat_interleave(counts)).long()
        lengths = 8 * rand(n_terms)
        spacing = 7.0 / functions
        return cls(
            (
                4 * rand(n_atoms, 3, head_width, heads) - 2,
                -0.1 - 1.5 * rand(n_atoms, heads),
                rand(functions, head_width, heads) - 0.5,
                lengths,
                lengths.square() * (1 + rand(n_terms)),
            ),
            image_of + first.repeat_interleave(counts),
            offsets(counts),
            ptr,
            spacing * torch.arange(1, functions + 1).to(dtype),
            relative_width * spacing,
            2 * rand(n_terms) if reaching else None,
            rand(n_atoms, head_width, heads) - 0.5,
        )

    @property
    def constants(self) -> tuple[Tensor, Tensor, Tensor, Tensor, float, Tensor | None]:
        return (
            self.image_of,
            self.first_term,
            self.ptr,
            self.centers,
            self.width,
            self.reach,
        )

    def results(self) -> list[Tensor]:
        return with_gradients(lattice_attention, self)


def offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def plain(
    vectors: Tensor,
    decay: Tensor,
    added: Tensor,
    lengths: Tensor,
    squares: Tensor,
    image_of: Tensor,
    first_term: Tensor,
    ptr: Tensor,
    centers: Tensor,
    width: float,
    reach: Tensor | None,
) -> Tensor:
    out = []
    q, k, v = vectors.unbind(1)
    zero = lengths.new_zeros(1)
    for a in range(len(vectors)):
        own = slice(int(first_term[a]), int(first_term[a + 1]))
        image = torch.cat([image_of[own], torch.tensor([a])])
        length, square = (torch.cat([x[own], zero]) for x in (lengths, squares))
        exponents = (q[a] * k[image]).sum(1) / q.shape[1] ** 0.5 + decay[a] * square[:, None]
        if reach is not None:
            hidden = (-0.5 / decay[a].detach()).sqrt() <= torch.cat([reach[own], zero])[:, None]
            exponents = exponents.masked_fill(hidden, -torch.inf)
        basis = torch.exp(-((length[:, None] - centers) ** 2) / (2 * width**2))
        terms = v[image] + torch.einsum("tk,kdh->tdh", basis, added)
        out.append((exponents.softmax(0)[:, None] * terms).sum(0))
    return torch.stack(out)


def with_gradients(function: Callable[..., Tensor], case: Case) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in case.floats]
    out = function(*leaves, *case.constants)
    return [out.detach(), *torch.autograd.grad(out, leaves, case.grad)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reaching", [False, True])
@pytest.mark.parametrize(
    ("heads", "head_width", "functions", "relative_width"),
    [
        (8, 16, 64, 1.0),
        (1, 1, 1, 1.0),
        (11, 5, 20, 0.3),
        (2, 4, 16, 4.0),
        (16, 3, 100, 1.7),
        (8, 7, 7, 0.02),
    ],
)
def test_equals_the_formula(
    heads: int,
    head_width: int,
    functions: int,
    relative_width: float,
    reaching: bool,
    dtype: torch.dtype,
) -> None:
    """Atoms without terms, alone in their crystal, with fewer terms than atoms, with many."""
    crystals = [[0], [1, 40, 7], [3000], [3, 0, 2, 9]]
    case = Case.of(crystals, heads, head_width, functions, relative_width, reaching, dtype)
    for found, expected in zip(case.results(), with_gradients(plain, case), strict=True):
        tolerance = TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_common_logit_changes_little(shift: float, dtype: torch.dtype) -> None:
    """A number that all keys of a head share moves all logits of an atom alike."""
    case = Case.of([[30, 20, 10], [20]], dtype=dtype)
    vectors = case.floats[0].clone()
    vectors[:, 0, 0] = 1.0
    vectors[:, 1, 0] = shift
    moved = replace(case, floats=(vectors, *case.floats[1:]))
    results = zip(("out", *NAMES), moved.results(), with_gradients(plain, moved), strict=True)
    for name, found, expected in results:
        if name == "vectors":
            continue  # gradients of queries are differences of products with the large number
        tolerance = 300 * TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_crystal_does_not_depend_on_the_rest(threads: int, dtype: torch.dtype) -> None:
    crystals = [[40, 1], [700], [33, 5, 8], *[[50, 9]] * 100]
    case = Case.of(crystals, heads=11, dtype=dtype)
    whole = case.results()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name, found, expected in zip(("out", *NAMES), case.results(), whole, strict=True):
            # Of `added`, which all crystals share, the gradient is a sum over them.
            assert torch.equal(found, expected), name
        for c in (0, 1, 2, 60, 102):
            first, end = (int(case.ptr[i]) for i in (c, c + 1))
            atoms = slice(first, end)
            terms = slice(*(int(case.first_term[a]) for a in (first, end)))
            rows = (atoms, atoms, slice(None), terms, terms)
            alone = replace(
                case,
                floats=tuple(x[row].clone() for x, row in zip(case.floats, rows, strict=True)),
                image_of=case.image_of[terms] - first,
                first_term=case.first_term[first : end + 1] - terms.start,
                ptr=torch.tensor([0, end - first]),
                grad=case.grad[atoms],
            )
            found = dict(zip(("out", *NAMES), alone.results(), strict=True))
            for name, expected, row in zip(("out", *NAMES), whole, (atoms, *rows), strict=True):
                assert name == "added" or torch.equal(found[name], expected[row])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_those_of_finite_differences(frozen: bool) -> None:
    """With the functions' part as a constant, as designs have it, or not."""
    case = Case.of([[0], [1, 6, 9]], heads=3, functions=6)
    leaves = [x.clone().requires_grad_(not frozen or i != 2) for i, x in enumerate(case.floats)]
    assert torch.autograd.gradcheck(lambda *x: lattice_attention(*x, *case.constants), leaves)


def test_a_batch_of_nothing() -> None:
    case = Case.of([[]], heads=3, functions=6)
    assert [tuple(x.shape) for x in case.results()] == [
        (0, 6, 3),
        *(tuple(x.shape) for x in case.floats),
    ]


def test_the_operators_are_declared_well() -> None:
    for reaching in (False, True):
        case = Case.of([[3, 8]], functions=6, reaching=reaching)
        leaves = [x.clone().requires_grad_() for x in case.floats]
        torch.library.opcheck(
            torch.ops.smoacs.lattice_attention.default, (*leaves, *case.constants, True)
        )


def test_wrong_input() -> None:
    case = Case.of([[3, 8], [2]])
    _, decay, added, _, squares = case.floats
    image_of, first_term, ptr, centers, width, _ = case.constants

    def refused(message: str, error: type[Exception] = ValueError, **changes: object) -> None:
        arguments = {
            **dict(zip(NAMES, case.floats, strict=True)),
            "image_of": image_of,
            "first_term": first_term,
            "ptr": ptr,
            "centers": centers,
            "width": width,
        }
        with pytest.raises(error, match=message):
            lattice_attention(**{**arguments, **changes})  # type: ignore[arg-type]

    refused(r"decay must have shape \(3, 8\), got \(2, 8\)", decay=decay[1:])
    refused(r"added must have shape \(64, 6, 8\), got \(64, 5, 8\)", added=added[:, 1:])
    refused(r"squares must have shape \(13\), got \(12,\)", squares=squares[1:])
    refused("decay must be float64, got float32", TypeError, decay=decay.float())
    refused("image_of must be int64, got int32", TypeError, image_of=image_of.int())
    refused("width must be positive", width=0.0)
    for wrong in (centers.flip(0), centers**2):
        refused("centers must ascend by even steps", centers=wrong)
    refused("a term is no image of an atom of its crystal", image_of=image_of + 1)
    for wrong in (first_term + 1, first_term - 1, first_term[[0, 2, 1, 3]]):
        refused("offsets of atoms or terms", first_term=wrong)
    for wrong in (ptr + 1, ptr[:-1], ptr[[0, 2, 2]] - torch.tensor([0, 4, 0])):
        refused("offsets of atoms or terms", ptr=wrong)
