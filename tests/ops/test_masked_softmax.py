from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch import Tensor

from smoacs.ops import PackedMask, masked_softmax, pack_mask, reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
DTYPES = [torch.float32, torch.float64]
FORMS = ["exact", "paper"]
SIZES = {
    "ragged": [5, 1, 0, 20, 3],
    "one site": [1],
    "no site": [0, 0],
    "no crystal": [],
    "many sites": [200, 7],
}
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-13}  # gradients add up over 200 sites


@dataclass(frozen=True)
class Problem:
    """Arguments of the op, with padding patterns whose masks are empty."""

    element_logits: Tensor
    pattern_logits: Tensor
    allowed: Tensor
    ptr: Tensor

    def to(self, device: str, dtype: torch.dtype) -> Problem:
        return Problem(
            self.element_logits.to(device, dtype),
            self.pattern_logits.to(device, dtype),
            self.allowed.to(device),
            self.ptr.to(device),
        )

    def run(self, temperature, masking="exact", op=masked_softmax):
        return op(
            self.element_logits,
            self.pattern_logits,
            self.allowed,
            self.ptr,
            temperature,
            masking=masking,
        )

    def gradients(self, temperature, masking="exact", op=masked_softmax) -> tuple[Tensor, Tensor]:
        """Gradients of a fixed linear function of both outputs."""
        a = self.element_logits.detach().requires_grad_()
        w = self.pattern_logits.detach().requires_grad_()
        x, q = replace(self, element_logits=a, pattern_logits=w).run(temperature, masking, op)
        loss = (x * _weights(x)).sum() + (q * _weights(q)).sum()
        return torch.autograd.grad(loss, [a, w])


def _weights(x: Tensor) -> Tensor:
    return torch.linspace(-1, 2, x.numel(), dtype=x.dtype, device=x.device).sin().reshape(x.shape)


def problem(sizes=(5, 1, 3), patterns=3, elements=98, seed=0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    sites, crystals = int(ptr[-1]), len(sizes)
    a = torch.randn(sites, elements, generator=generator, dtype=torch.float64)
    w = torch.randn(crystals, patterns, generator=generator, dtype=torch.float64)
    allowed = torch.rand(sites, patterns, elements, generator=generator) < 0.3
    allowed[..., 0] |= ~allowed.any(-1)
    padding = torch.rand(crystals, patterns, generator=generator) < 0.3
    padding[:, 0] = False
    w[padding] = -torch.inf
    allowed[torch.repeat_interleave(padding, ptr.diff(), dim=0)] = False
    return Problem(a, w, allowed, ptr)


def close(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> None:
    for have, want in zip(actual, expected, strict=True):
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        torch.testing.assert_close(
            have.cpu().double(), want.cpu().double(), rtol=0, atol=tolerance * scale
        )


def agrees_with_the_reference(
    case: Problem,
    device: str,
    masking: str,
    temperature: float,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Results and gradients against the reference in double precision, for the same numbers."""
    kernel = case.to(device, dtype)
    oracle = kernel.to("cpu", torch.float64)
    for method in (Problem.run, Problem.gradients):
        expected = method(oracle, temperature, masking, reference.masked_softmax)
        close(method(kernel, temperature, masking), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("masking", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("device", DEVICES)
def test_agrees_with_the_reference(device, sizes, dtype, masking):
    agrees_with_the_reference(problem(sizes), device, masking, 0.3, dtype)


@pytest.mark.parametrize("masking", FORMS)
@pytest.mark.parametrize(
    ("patterns", "elements"),
    [*((3, z) for z in (1, 31, 32, 33, 64, 97, 98, 128)), *((k, 98) for k in (1, 16, 17, 40))],
)
@pytest.mark.parametrize("device", DEVICES)
def test_any_number_of_patterns_and_elements(device, patterns, elements, masking):
    agrees_with_the_reference(problem(patterns=patterns, elements=elements), device, masking, 0.2)


def test_agrees_with_scipy():
    case = problem([1], patterns=1, elements=10)
    x, q = case.run(0.5)
    logits = np.where(case.allowed[0, 0], case.element_logits[0], -np.inf)
    np.testing.assert_allclose(x[0], softmax(logits / 0.5), atol=1e-15)
    assert q.item() == 1.0


@pytest.mark.parametrize("masking", FORMS)
def test_gradcheck(masking):
    # Logits above the floor of the paper's form: at the floor it has a kink.
    case = problem([2, 1], patterns=2, elements=5, seed=3)
    a = (case.element_logits.abs() + 0.1).requires_grad_()
    w = (case.pattern_logits.abs() + 0.1).requires_grad_()
    w = w.detach().where(case.pattern_logits.isfinite(), -torch.inf).requires_grad_()
    finite = torch.isfinite(w)

    def function(a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.full_like(w, -torch.inf).masked_scatter(finite, v)
        return masked_softmax(a, logits, case.allowed, case.ptr, 0.7, masking=masking)

    v = w[finite].detach().requires_grad_()
    assert torch.autograd.gradcheck(function, (a, v))


@pytest.mark.parametrize("masking", FORMS)
def test_padding_patterns_have_no_weight_and_no_gradient(masking):
    case = problem(patterns=4)
    padding = torch.isneginf(case.pattern_logits)
    assert padding.any()
    _, q = case.run(0.1, masking)
    grad_elements, grad_patterns = case.gradients(0.1, masking)
    assert (q[padding] == 0).all()
    assert (grad_patterns[padding] == 0).all()
    assert torch.isfinite(grad_elements).all()
    assert torch.isfinite(grad_patterns).all()
    # What a padding pattern's mask says does not matter.
    rows = torch.repeat_interleave(padding, case.ptr.diff(), dim=0)[:, :, None]
    filled = replace(case, allowed=case.allowed | rows)
    for one, other in zip(filled.run(0.1, masking), case.run(0.1, masking), strict=True):
        assert torch.equal(one, other)


def test_exact_form_never_leaks_and_the_papers_does():
    case = problem(sizes=[50], patterns=1)
    forbidden = ~case.allowed[:, 0]
    exact, _ = case.run(0.01, "exact")
    paper, _ = replace(case, element_logits=torch.zeros_like(case.element_logits)).run(
        0.01, "paper"
    )
    assert (exact[forbidden] == 0).all()
    assert torch.where(forbidden, paper, 0).sum(1).mean() > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_tiny_temperature_is_an_argmax(device, dtype):
    case = problem([30, 4]).to(device, dtype)
    x, q = case.run(1e-8)
    crystal = torch.repeat_interleave(torch.arange(2, device=device), case.ptr.diff())
    best = case.pattern_logits.argmax(1)
    rows = torch.arange(34, device=device)
    logits = case.element_logits.masked_fill(~case.allowed[rows, best[crystal]], -torch.inf)
    assert torch.equal(q, torch.nn.functional.one_hot(best, q.shape[1]).to(dtype))
    assert torch.equal(x, torch.nn.functional.one_hot(logits.argmax(1), 98).to(dtype))
    for grad in case.gradients(1e-8):
        assert torch.isfinite(grad).all()


def test_ties_share_at_any_temperature():
    case = problem([1], patterns=2, elements=6)
    allowed = torch.ones_like(case.allowed)
    even = Problem(torch.zeros(1, 6), torch.zeros(1, 2), allowed, case.ptr)
    x, q = even.run(1e-8)
    torch.testing.assert_close(x, torch.full((1, 6), 1 / 6))
    assert torch.equal(q, torch.full((1, 2), 0.5))


def test_huge_logits_do_not_overflow():
    case = problem().to("cpu", torch.float32)
    x, _ = replace(case, element_logits=case.element_logits * 1e30).run(1e-6)
    torch.testing.assert_close(x.sum(1), torch.ones(len(x)))


@pytest.mark.parametrize("masking", FORMS)
@pytest.mark.parametrize("device", DEVICES)
def test_one_temperature_per_crystal(device, masking):
    case = problem([3, 2, 4]).to(device, torch.float32)
    temperatures = torch.tensor([1.0, 0.1, 1e-8], device=device)
    together = case.run(temperatures, masking)
    bounds = case.ptr.tolist()
    for c, temperature in enumerate(temperatures.tolist()):
        x, q = case.run(temperature, masking)
        sites = slice(bounds[c], bounds[c + 1])
        assert torch.equal(together[0][sites], x[sites])
        assert torch.equal(together[1][c], q[c])


@pytest.mark.parametrize("masking", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "sizes", [[5, 130, 1, 17], [20] * 210], ids=["ragged", "several blocks of the backward pass"]
)
def test_a_crystal_does_not_depend_on_its_batch(sizes, device, dtype, masking):
    case = problem(sizes).to(device, dtype)
    x, q = case.run(0.05, masking)
    a = case.element_logits.detach().requires_grad_()
    w = case.pattern_logits.detach().requires_grad_()
    replace(case, element_logits=a, pattern_logits=w).run(0.05, masking)[
        0
    ].square().sum().backward()
    bounds = case.ptr.tolist()
    for c, (start, stop) in enumerate(pairwise(bounds)):
        sites = slice(start, stop)
        alone = Problem(
            case.element_logits[sites].clone().requires_grad_(),
            case.pattern_logits[c : c + 1].clone().requires_grad_(),
            case.allowed[sites],
            torch.tensor([0, stop - start], device=device),
        )
        x_alone, q_alone = alone.run(0.05, masking)
        x_alone.square().sum().backward()
        assert torch.equal(x_alone, x[sites])
        assert torch.equal(q_alone[0], q[c])
        assert torch.equal(alone.element_logits.grad, a.grad[sites])
        assert torch.equal(alone.pattern_logits.grad[0], w.grad[c])


def test_threads_do_not_change_the_result():
    case = problem([5] * 100 + [300]).to("cpu", torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append((*case.run(0.1), *case.gradients(0.1)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_takes_strided_arrays():
    case = problem().to("cpu", torch.float32)
    strided = Problem(
        case.element_logits.t().contiguous().t(),
        case.pattern_logits.repeat_interleave(2, 1)[:, ::2],
        case.allowed,
        case.ptr,
    )
    assert not strided.element_logits.is_contiguous()
    for have, want in zip(strided.run(0.2), case.run(0.2), strict=True):
        assert torch.equal(have, want)


@given(
    sites=st.integers(0, 5),
    patterns=st.integers(1, 4),
    elements=st.integers(1, 128),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_packing_round_trip(sites, patterns, elements, seed):
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand(sites, patterns, elements, generator=generator) < 0.5
    packed = pack_mask(allowed)
    assert packed.words.shape == (sites, patterns, -(-elements // 32))
    assert torch.equal(packed.unpack(), allowed)
    index = torch.randint(0, max(sites, 1), (7,), generator=generator)[: 7 * min(sites, 1)]
    assert torch.equal(packed.select(index).unpack(), allowed[index])


def test_packed_and_plain_masks_agree():
    case = problem()
    plain = case.run(0.1)
    packed = masked_softmax(
        case.element_logits, case.pattern_logits, pack_mask(case.allowed), case.ptr, 0.1
    )
    assert all(torch.equal(x, y) for x, y in zip(plain, packed, strict=True))


def test_bits_beyond_the_last_element_are_ignored():
    case = problem(elements=33)
    words = pack_mask(case.allowed).words.clone()
    words[..., 1] |= -2  # all bits but that of element 32
    x, _ = masked_softmax(
        case.element_logits, case.pattern_logits, PackedMask(words, 33), case.ptr, 0.1
    )
    assert torch.equal(x, case.run(0.1)[0])


def _no_element(case: Problem) -> Problem:
    allowed = case.allowed.clone()
    allowed[6, 0] = False
    return replace(case, allowed=allowed)


def _with(case: Problem, name: str, index: tuple[int, int], value: float) -> Problem:
    changed = getattr(case, name).clone()
    changed[index] = value
    return replace(case, **{name: changed})


FAULTS = {
    "site 6 has no allowed element under pattern 0": _no_element,
    r"element_logits\[2\] must be finite": lambda p: _with(p, "element_logits", (2, 9), torch.nan),
    r"element_logits\[8\] must be finite": lambda p: _with(p, "element_logits", (8, 97), torch.inf),
    r"pattern_logits\[1, 2\] must be finite": lambda p: _with(
        p, "pattern_logits", (1, 2), torch.nan
    ),
    "crystal 1 has no pattern": lambda p: replace(
        p, pattern_logits=p.pattern_logits.index_fill(0, torch.tensor(1), -torch.inf)
    ),
    r"shape \(any, any\)": lambda p: replace(p, element_logits=p.element_logits[0]),
    r"ptr must have shape \(4\)": lambda p: replace(p, ptr=p.ptr[:-1]),
    "ptr ends at 8": lambda p: replace(p, ptr=torch.tensor([0, 5, 6, 8])),
    "ptr falls": lambda p: replace(p, ptr=torch.tensor([0, 6, 5, 9])),
    "ptr must start at 0": lambda p: replace(p, ptr=torch.tensor([1, 5, 6, 9])),
    "sites without a crystal": lambda p: replace(
        p, pattern_logits=p.pattern_logits[:0], ptr=p.ptr[:1]
    ),
    "about 97 elements": lambda p: replace(p, allowed=p.allowed[..., :97]),
    "1 to 128 elements, got 129": lambda p: replace(
        p, allowed=torch.ones(9, 3, 129, dtype=torch.bool)
    ),
    "at least one column": lambda p: replace(p, pattern_logits=p.pattern_logits[:, :0]),
}


@pytest.mark.parametrize("message", FAULTS)
def test_bad_values_are_named(message):
    case = FAULTS[message](problem())
    with pytest.raises(ValueError, match=message):
        case.run(0.1)


@pytest.mark.cuda
def test_bad_values_are_nan_on_a_gpu():
    case = problem().to("cuda", torch.float32)
    x, q = _no_element(case).run(0.1)
    assert x.isnan().all(1).nonzero().tolist() == [[6]]
    assert q.isfinite().all()
    x, q = _with(case, "pattern_logits", (1, 2), torch.nan).run(0.1)
    assert x.isnan().all(1).nonzero().tolist() == [[5]]
    assert q.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masking", FORMS)
@pytest.mark.parametrize("device", DEVICES)
def test_patterns_far_below_the_best_element_are_exact(device, masking, dtype):
    """A pattern with weight whose elements all lie tens or thousands of T below the best one."""
    case = problem([6], patterns=4)
    depth = torch.tensor([0.0, 8.0, 40.0, 5000.0]).double()
    allowed = torch.arange(98)[None, None, :] % 4 == torch.arange(4)[None, :, None]
    logits = case.element_logits.abs() - depth[torch.arange(98) % 4]
    case = Problem(logits + 5001, torch.zeros(1, 4).double(), allowed.repeat(6, 1, 1), case.ptr)
    agrees_with_the_reference(case, device, masking, 1.0, dtype)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        problem().run(temperature)
    each = torch.tensor([0.1, temperature, 0.1], dtype=torch.float64)
    with pytest.raises(ValueError, match="not for crystal 1"):
        problem().run(each)


def test_bad_types():
    case = problem()
    with pytest.raises(TypeError, match="element_logits must be float32 or float64, got float16"):
        case.to("cpu", torch.float16).run(0.1)
    with pytest.raises(TypeError, match="pattern_logits must be float64, got float32"):
        replace(case, pattern_logits=case.pattern_logits.float()).run(0.1)
    with pytest.raises(TypeError, match="ptr must be int64"):
        replace(case, ptr=case.ptr.int()).run(0.1)
    with pytest.raises(TypeError, match="allowed must be bool"):
        replace(case, allowed=case.allowed.int()).run(0.1)
    with pytest.raises(ValueError, match="masking must be"):
        case.run(0.1, "soft")


def test_opcheck():
    case = problem(patterns=2, elements=7)
    for temperature in (torch.tensor([0.3]), torch.tensor([0.3, 0.2, 0.1])):
        for paper in (False, True):
            torch.library.opcheck(
                torch.ops.smoacs.masked_softmax.default,
                (
                    case.element_logits.requires_grad_(),
                    case.pattern_logits.requires_grad_(),
                    pack_mask(case.allowed).words,
                    case.ptr,
                    temperature.double(),
                    paper,
                ),
            )


def test_works_in_a_compiled_function():
    case = problem().to("cpu", torch.float32)
    packed = pack_mask(case.allowed)

    def loss(a: Tensor, w: Tensor) -> Tensor:
        x, q = masked_softmax(a, w, packed, case.ptr, 0.1)
        return x.square().sum() + q.square().sum()

    a, w = case.element_logits.requires_grad_(), case.pattern_logits.requires_grad_()
    eager = torch.autograd.grad(loss(a, w), [a, w])
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for have, want in zip(torch.autograd.grad(compiled(a, w), [a, w]), eager, strict=True):
        assert torch.equal(have, want)
