from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from smoacs.ops import random_normal, random_uniform, reference, resample

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
DTYPES = [torch.float32, torch.float64]
RESOLUTION = {torch.float32: 2.0**-24, torch.float64: 2.0**-52}
SIZES = {"ragged": [5, 1, 0, 20], "one row": [1], "no row": [0, 0], "no crystal": []}
SEED = 2**40 + 12345


def offsets(sizes) -> torch.Tensor:
    return torch.tensor([0, *sizes]).cumsum(0)


def identities(sizes) -> torch.Tensor:
    """Candidate numbers that need both words of the counter."""
    return torch.arange(len(sizes)) * (2**40 + 17) + 3


# Known answers published with the authors' Random123 library, file kat_vectors.
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_reference_generator_gives_the_known_answers(counter, key, answer):
    bits = reference.philox4x32(
        tuple(np.array([x], dtype=np.uint64) for x in counter),
        tuple(np.array([x], dtype=np.uint64) for x in key),
    )
    assert [int(x[0]) for x in bits] == answer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 98])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("device", DEVICES)
def test_numbers_agree_with_the_reference(device, sizes, width, dtype):
    where = (SEED, identities(sizes), 7, 2, offsets(sizes), width)
    uniform = random_uniform(*where, dtype, device)
    normal = random_normal(*where, dtype, device)
    assert uniform.shape == normal.shape == (sum(sizes), width)
    assert uniform.dtype == normal.dtype == dtype
    assert uniform.device.type == normal.device.type == device
    torch.testing.assert_close(
        uniform.cpu().double(), reference.random_uniform(*where), rtol=0, atol=RESOLUTION[dtype]
    )
    torch.testing.assert_close(
        normal.cpu().double(),
        reference.random_normal(*where),
        rtol=4 * RESOLUTION[dtype],
        atol=4 * RESOLUTION[torch.float64],
    )


def test_single_precision_numbers_are_the_double_precision_ones():
    where = (0, torch.arange(50), 0, 0, torch.arange(51) * 10, 4)
    single, double = (random_uniform(*where, dtype) for dtype in DTYPES)
    assert (single <= double).all()
    assert (double - single < 2**-24).all()
    assert single.max() < 1
    assert torch.equal(random_normal(*where), random_normal(*where, torch.float64).float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_distributions(dtype):
    where = (1, torch.arange(200), 0, 0, torch.arange(201) * 10, 50)
    uniform = random_uniform(*where, dtype).double().flatten()
    normal = random_normal(*where, dtype).double().flatten()
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3
    n = normal.numel()
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(normal.pow(power).mean() - moment) < 4 * math.sqrt(variance / n)
    # Neighbouring numbers, also both of one Box-Muller pair, are uncorrelated.
    assert abs((normal[1:] * normal[:-1]).mean()) < 4 / math.sqrt(n)
    assert abs((normal[::2].square() * normal[1::2].square()).mean() - 1) < 4 * math.sqrt(16 / n)


def test_streams_differ_in_every_part_of_the_key():
    ptr, one = torch.tensor([0, 4]), torch.tensor([1])
    numbers = [
        random_uniform(seed, candidate, step, variable, ptr, 5)
        for seed, candidate, step, variable in [
            (0, one, 0, 0),
            (1, one, 0, 0),
            (2**32, one, 0, 0),
            (0, one + 1, 0, 0),
            (0, one + 2**32, 0, 0),
            (0, one, 1, 0),
            (0, one, 0, 1),
            (2**63 - 1, one, 0, 0),
            (0, one, 2**32 - 1, 0),
            (0, one, 0, 65535),
            (0, 0 * one + 2**48 - 1, 0, 0),
        ]
    ]
    together = torch.cat(numbers).flatten()
    assert together.unique().numel() == together.numel()


@pytest.mark.parametrize("draw", [random_uniform, random_normal])
def test_a_candidate_does_not_depend_on_its_batch(draw):
    sizes = [5, 1, 300, 7]
    ptr, names = offsets(sizes), identities(sizes)
    steps = torch.tensor([3, 9, 3, 2])
    together = draw(4, names, steps, 1, ptr, 3)
    for c, (start, stop) in enumerate(pairwise(ptr.tolist())):
        alone = draw(4, names[c : c + 1], int(steps[c]), 1, torch.tensor([0, stop - start]), 3)
        assert torch.equal(alone, together[start:stop])


def test_threads_do_not_change_the_numbers():
    where = (4, torch.arange(500), 0, 1, torch.arange(501) * 3, 10)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = random_normal(*where)
        torch.set_num_threads(4)
        assert torch.equal(random_normal(*where), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_resample_agrees_with_the_reference(device, dtype):
    sizes = [5, 3, 5, 0, 3, 0]
    ptr, names = offsets(sizes), identities(sizes)
    parents = torch.tensor([2, 1, 2, 5, 1, 5])
    values = torch.linspace(-3, 3, 16 * 3, dtype=torch.float64).reshape(16, 3).to(dtype)
    expected = reference.resample(values.double(), ptr, parents, names, 1e-2, SEED, 11, 4)
    mutated = resample(
        values.to(device), ptr.to(device), parents.to(device), names.to(device), 1e-2, SEED, 11, 4
    )
    assert mutated.dtype == dtype
    torch.testing.assert_close(
        mutated.cpu().double(), expected, rtol=2 * RESOLUTION[dtype], atol=1e-2 * RESOLUTION[dtype]
    )


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
def test_cpu_and_gpu_give_the_same_bits(dtype):
    sizes = [5, 300, 5, 0, 300, 0]
    ptr, names, steps = offsets(sizes), identities(sizes), torch.arange(6) * 1000
    for draw in (random_uniform, random_normal):
        on_cpu = draw(SEED, names, steps, 4, ptr, 98, dtype)
        on_gpu = draw(SEED, names.cuda(), steps.cuda(), 4, ptr.cuda(), 98, dtype, "cuda")
        assert torch.equal(on_gpu.cpu(), on_cpu)
    values = torch.linspace(-3, 3, sum(sizes) * 3, dtype=dtype).reshape(-1, 3)
    tensors = values, ptr, torch.tensor([2, 1, 2, 5, 1, 5]), names
    on_cpu = resample(*tensors, 1e-2, SEED, 11, 4)
    on_gpu = resample(*(tensor.cuda() for tensor in tensors), 1e-2, SEED, 11, 4)
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_resample_keeps_survivors_and_perturbs_the_others():
    sizes = [4] * 300
    ptr, names = offsets(sizes), torch.arange(300)
    values = torch.randn(1200, 3, generator=torch.Generator().manual_seed(0))
    values[0, 0] = torch.nan  # a failed candidate stays as it is, and away from the others
    parents = torch.arange(300)
    parents[100:] = 7
    mutated = resample(values, ptr, parents, names, 1e-3, 0, 50, 2)
    assert torch.equal(mutated[:400].isnan(), values[:400].isnan())
    assert torch.equal(mutated[1:400], values[1:400])
    noise = (mutated[400:] - values[28:32].repeat(200, 1)) / 1e-3
    torch.testing.assert_close(
        noise, random_normal(0, names, 50, 2, ptr, 3)[400:], rtol=0, atol=1e-3
    )
    same = resample(values, ptr, parents, names, 0.0, 0, 50, 2)
    assert torch.equal(same[400:], values[28:32].repeat(200, 1))


def test_resample_does_not_depend_on_the_batch():
    values = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    ptr = torch.tensor([0, 4, 8, 12])
    names = torch.tensor([30, 10, 20])
    together = resample(values, ptr, torch.tensor([1, 1, 1]), names, 0.1, 5, 6, 7)
    pair = resample(
        values[4:], ptr[:3], torch.tensor([0, 0]), names[1:], 0.1, 5, torch.tensor([6, 6]), 7
    )
    assert torch.equal(together[4:], pair)


def test_resample_of_nothing():
    empty = torch.zeros(0, 3)
    none = torch.zeros(0, dtype=torch.int64)
    assert resample(empty, torch.tensor([0]), none, none, 0.1, 0, 0, 0).shape == (0, 3)


def test_resample_carries_no_gradient():
    values = torch.zeros(2, 3, requires_grad=True)
    one = torch.zeros(1, dtype=torch.int64)
    assert not resample(values, torch.tensor([0, 2]), one, one, 0.1, 0, 0, 0).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"candidates": torch.tensor([0, -4])}, "got -4"),
        ({"candidates": torch.tensor([0, 2**48])}, "candidates must be in 0 ... 2\\^48 - 1"),
        ({"step": -1}, "step must be in"),
        ({"step": torch.tensor([0, 2**32])}, "step must be in 0 ... 2\\^32 - 1, got 4294967296"),
        ({"variable": 65536}, "variable must be in 0 ... 2\\^16 - 1, got 65536"),
        ({"ptr": torch.tensor([0, 3, 2])}, "ptr falls at crystal 1"),
        ({"ptr": torch.tensor([1, 1, 2])}, "ptr must start at 0"),
        ({"ptr": torch.tensor([0, 2])}, r"ptr must have shape \(3\)"),
        ({"width": -1}, "width must not be negative"),
        ({"step": torch.tensor([1, 2, 3])}, r"step must have shape \(2\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {
        "seed": 0,
        "candidates": torch.tensor([0, 1]),
        "step": 0,
        "variable": 0,
        "ptr": torch.tensor([0, 1, 2]),
        "width": 2,
    }
    with pytest.raises(ValueError, match=message):
        random_normal(**{**arguments, **change})


def test_bad_types():
    with pytest.raises(TypeError, match=r"dtype must be torch\.float32 or torch\.float64"):
        random_uniform(0, torch.tensor([0]), 0, 0, torch.tensor([0, 1]), 1, torch.float16)
    with pytest.raises(TypeError, match="candidates must be int64, got int32"):
        random_uniform(0, torch.tensor([0]).int(), 0, 0, torch.tensor([0, 1]), 1)


@pytest.mark.parametrize(
    ("parents", "sigma", "message"),
    [
        ([0, 3, 2], 0.1, "parents must be in 0 ... 2, got 3 for crystal 1"),
        ([0, -1, 2], 0.1, "parents must be in 0 ... 2, got -1 for crystal 1"),
        ([2, 1, 2], 0.1, "candidate 5 cannot take the rows of candidate 7: they have 2 and 3 rows"),
        ([0, 1, 2], -0.1, "sigma must be finite and not negative"),
        ([0, 1, 2], math.nan, "sigma must be finite and not negative"),
        ([0, 1], 0.1, r"parents must have shape \(3\)"),
    ],
)
def test_bad_resampling_is_named(parents, sigma, message):
    ptr = torch.tensor([0, 2, 4, 7])
    with pytest.raises(ValueError, match=message):
        resample(
            torch.zeros(7, 3), ptr, torch.tensor(parents), torch.tensor([5, 6, 7]), sigma, 0, 0, 0
        )


def test_opcheck():
    ptr, names, steps = torch.tensor([0, 2, 4]), torch.tensor([4, 9]), torch.tensor([3])
    torch.library.opcheck(
        torch.ops.smoacs.random.default, (ptr, names, steps, 1, 2, 4, 3, torch.float32, True)
    )
    torch.library.opcheck(
        torch.ops.smoacs.resample.default,
        (torch.zeros(4, 3), ptr, torch.tensor([1, 1]), names, 0.1, 1, steps, 2),
    )
