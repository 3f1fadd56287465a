"""Matrix products equal torch's, and none of their elements depends on what is beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoacs.ops import matrix_product

DTYPES = (torch.float32, torch.float64)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_strides(x: Tensor, kind: str) -> Tensor:
    """The same matrices, elsewhere in memory."""
    if kind == "transposed":
        return x.mT.contiguous().mT
    if kind == "part":
        return torch.nn.functional.pad(x, (3, 2, 1, 0))[..., 1:, 3:-2]
    return x


@settings(max_examples=150, deadline=None)
@given(
    batch=st.sampled_from([(), (0,), (1,), (3,)]),
    sizes=st.tuples(st.integers(0, 120), st.integers(0, 40), st.integers(0, 150)),
    kinds=st.tuples(*[st.sampled_from(["whole", "transposed", "part"])] * 2),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_equals_torch(
    batch: tuple[int, ...],
    sizes: tuple[int, int, int],
    kinds: tuple[str, str],
    bias: bool,
    dtype: torch.dtype,
) -> None:
    n, k, m = sizes
    a = with_strides(random(*batch, n, k, dtype=dtype), kinds[0])
    b = with_strides(random(*batch, k, m, dtype=dtype, seed=1), kinds[1])
    c = random(m, dtype=dtype, seed=2) if bias else None
    expected = a.double() @ b.double() + (0 if c is None else c.double())
    accuracy = 1e-5 if dtype == torch.float32 else 1e-13
    out = matrix_product(a, b, c)
    assert out.is_contiguous()
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=accuracy)


@pytest.mark.parametrize("k", [511, 512, 513, 1500])
def test_long_sums(k: int) -> None:
    a, b, c = random(50, k), random(k, 70, seed=1), random(70, seed=2)
    torch.testing.assert_close(matrix_product(a, b, c), a @ b + c, rtol=0, atol=1e-11)
    single = matrix_product(a.float(), b.float(), c.float())
    assert (single - (a @ b + c)).abs().max() < 3e-7 * k


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients(batch: tuple[int, ...], bias: bool) -> None:
    inputs = [random(*batch, 7, 3), random(*batch, 3, 5, seed=1)] + [random(5, seed=2)] * bias
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(matrix_product, inputs)
    assert torch.autograd.gradgradcheck(matrix_product, inputs)
    torch.library.opcheck(torch.ops.smoacs.matrix_product.default, (*inputs, *[None] * (not bias)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("k", "m"), [(92, 64), (64, 1), (40, 16), (3, 5), (24, 72), (31, 130), (700, 9)]
)
def test_elements_do_not_depend_on_the_rest(
    dtype: torch.dtype, threads: int, k: int, m: int
) -> None:
    a, b, c = (random(*s, dtype=dtype) for s in ((2000, k), (k, m), (m,)))
    whole = matrix_product(a, b, c)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for start, stop in ((0, 1), (5, 8), (17, 81), (96, 191), (333, 2000), (1999, 2000)):
            assert torch.equal(matrix_product(a[start:stop], b, c), whole[start:stop])
        for start, stop in ((0, 1), (m // 2, m), (m - 1, m)):
            columns = matrix_product(a, b[:, start:stop], c[start:stop])
            assert torch.equal(columns, whole[:, start:stop])
        batch = matrix_product(a.view(50, 40, k), b.expand(50, k, m), c)
        assert torch.equal(batch.view(2000, m), whole)
    finally:
        torch.set_num_threads(before)


def test_not_a_number_stays_in_its_row() -> None:
    a, b = random(20, 4), random(4, 3, seed=1)
    a[7, 2] = torch.nan
    found = matrix_product(a, b)
    assert found.isnan().any(1).nonzero().tolist() == [[7]]
    assert found[7].isnan().all()


def test_wrong_input() -> None:
    a, b = random(4, 3), random(3, 2)
    with pytest.raises(ValueError, match=r"b must have shape \(3, any\), got \(2, 3\)"):
        matrix_product(a, b.t())
    with pytest.raises(ValueError, match=r"b must have shape \(2, 3, any\), got \(3, 2\)"):
        matrix_product(a.expand(2, 4, 3), b)
    with pytest.raises(ValueError, match=r"bias must have shape \(2\), got \(3,\)"):
        matrix_product(a, b, random(3))
    with pytest.raises(TypeError, match="b must be float64, got float32"):
        matrix_product(a, b.float())
    with pytest.raises(TypeError, match="a must be float32 or float64, got int64"):
        matrix_product(a.long(), b.long())
