"""Random numbers that belong to candidates, and mutation with them.

The generator is counter-based (Philox4x32-10): a number depends on the seed, the candidate's
identity, the step, the variable and its place among the candidate's numbers, and on nothing else.
So a candidate is the same in every batch, on every device and after every resume.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from smoacs.ops._native import check_tensor, empty_like, kernels, launch
from smoacs.ops._operator import operator

_FLOATS = (torch.float32, torch.float64)


def random_uniform(
    seed: int,
    candidates: Tensor,
    step: int | Tensor,
    variable: int,
    ptr: Tensor,
    width: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform random numbers in [0, 1), ``width`` for each row of each candidate.

    Parameters
    ----------
    seed : int
        Seed of the run, 0 to 2^63 - 1.
    candidates : Tensor (C,), int64
        Identities of the candidates, 0 to 2^48 - 1.
    step : int or Tensor (C,), int64
        Step of the run, for all candidates or for each; 0 to 2^32 - 1.
    variable : int
        Number of the variable that the numbers are for, 0 to 65535. Other variables, and other
        steps, get independent numbers; uniform and normal numbers of one variable are related.
    ptr : Tensor (C + 1,), int64
        Offsets of the candidates' rows.
    width : int
        Numbers per row.
    dtype : {torch.float32, torch.float64}
        float32 numbers are the float64 ones, cut to 24 bits.
    device : torch.device or str, optional
        Where the numbers are wanted; by default where ``candidates`` are.

    Returns
    -------
    Tensor (R, width)

    Raises
    ------
    TypeError, ValueError
        If an argument is outside its range, or of another dtype or shape.
    """
    return _fill(seed, candidates, step, variable, ptr, width, dtype, device, normal=False)


def random_normal(
    seed: int,
    candidates: Tensor,
    step: int | Tensor,
    variable: int,
    ptr: Tensor,
    width: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Random numbers from the standard normal distribution (Box and Muller).

    Parameters, returns and errors are those of :func:`random_uniform`. float32 numbers are the
    float64 ones, rounded.
    """
    return _fill(seed, candidates, step, variable, ptr, width, dtype, device, normal=True)


def resample(
    values: Tensor,
    ptr: Tensor,
    parents: Tensor,
    candidates: Tensor,
    sigma: float,
    seed: int,
    step: int | Tensor,
    variable: int,
) -> Tensor:
    """Replace candidates by noisy copies of their parents, for one variable (paper, mutation).

    Candidate c gets the rows of ``parents[c]`` plus ``sigma`` times standard normal noise, or keeps
    its own bit for bit where ``parents[c] == c``. The noise is that of :func:`random_normal` for
    (seed, ``candidates[c]``, step, variable). The result carries no gradient.

    Parameters
    ----------
    values : Tensor (R, D), float32 or float64
        Rows of all candidates.
    ptr : Tensor (C + 1,), int64
        Offsets of the candidates' rows.
    parents : Tensor (C,), int64
        Place in the batch of each candidate's parent, which must have as many rows.
    candidates : Tensor (C,), int64
        Identities of the candidates, 0 to 2^48 - 1.
    sigma : float
        Standard deviation of the noise, in the unit of ``values``; not negative.
    seed, step, variable
        As for :func:`random_uniform`.

    Returns
    -------
    Tensor (R, D)

    Raises
    ------
    TypeError, ValueError
        If an argument is outside its range, or a candidate and its parent differ in size.
    """
    check_tensor("values", values, (None, None), _FLOATS, values.device)
    _check_batch(candidates, ptr, values.device)
    check_tensor("parents", parents, candidates.shape, torch.int64, values.device)
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and not negative, got {sigma}")
    steps = _step_tensor(step, candidates)
    return _resample(values, ptr, parents, candidates, sigma, seed, steps, variable)


def _fill(
    seed: int,
    candidates: Tensor,
    step: int | Tensor,
    variable: int,
    ptr: Tensor,
    width: int,
    dtype: torch.dtype,
    device: torch.device | str | None,
    *,
    normal: bool,
) -> Tensor:
    if dtype not in _FLOATS:
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    if width < 0:
        raise ValueError(f"width must not be negative, got {width}")
    _check_batch(candidates, ptr, candidates.device)
    target = candidates.device if device is None else torch.device(device)
    candidates, ptr = candidates.to(target), ptr.to(target)
    if isinstance(step, Tensor):
        step = step.to(target)
    steps = _step_tensor(step, candidates)
    rows = int(ptr[-1])
    return _random(ptr, candidates, steps, seed, variable, rows, width, dtype, normal)


def _check_batch(candidates: Tensor, ptr: Tensor, device: torch.device) -> None:
    check_tensor("candidates", candidates, (None,), torch.int64, device)
    check_tensor("ptr", ptr, (candidates.shape[0] + 1,), torch.int64, device)


def _step_tensor(step: int | Tensor, candidates: Tensor) -> Tensor:
    if isinstance(step, Tensor):
        check_tensor("step", step, candidates.shape, torch.int64, candidates.device)
        return step
    return candidates.new_full((1,), step)


class _Streams(NamedTuple):
    """Whose numbers are wanted; contiguous."""

    ptr: Tensor
    candidates: Tensor
    steps: Tensor
    seed: int
    variable: int
    n_rows: int
    width: int

    def host(self) -> Self:
        return self._replace(
            ptr=self.ptr.cpu(), candidates=self.candidates.cpu(), steps=self.steps.cpu()
        )

    def native(self) -> Any:
        return kernels().RandomStreams(  # names would cost 2 µs
            self.n_rows,
            self.candidates.shape[0],
            self.width,
            self.steps.shape[0],
            self.seed,
            self.variable,
            self.ptr.data_ptr(),
            self.candidates.data_ptr(),
            self.steps.data_ptr(),
        )


def _run(kernel: str, streams: _Streams, out: Tensor, **arguments: Any) -> Tensor:
    """Fill ``out`` by a kernel that draws numbers."""
    # Checked in host memory; on a GPU that takes a copy of these few numbers.
    host = streams if out.is_cpu else streams.host()
    native = streams.native()
    checked = native if host is streams else host.native()
    launch(kernel, out, native, host=checked, out=out, **arguments)
    return out


@operator(
    "random",
    fake=lambda ptr, candidates, steps, seed, variable, rows, width, dtype, _: ptr.new_empty(
        rows, width, dtype=dtype
    ),
    constant=True,
)
def _random(
    ptr: Tensor,
    candidates: Tensor,
    steps: Tensor,
    seed: int,
    variable: int,
    rows: int,
    width: int,
    dtype: torch.dtype,
    normal: bool,
) -> Tensor:
    arrays = ptr.contiguous(), candidates.contiguous(), steps.contiguous()
    streams = _Streams(*arrays, seed, variable, rows, width)
    return _run("fill_random", streams, ptr.new_empty(rows, width, dtype=dtype), normal=normal)


@operator("resample", fake=lambda values, *_: empty_like(values), constant=True)
def _resample(
    values: Tensor,
    ptr: Tensor,
    parents: Tensor,
    candidates: Tensor,
    sigma: float,
    seed: int,
    steps: Tensor,
    variable: int,
) -> Tensor:
    arrays = ptr.contiguous(), candidates.contiguous(), steps.contiguous()
    return _run(
        "resample",
        _Streams(*arrays, seed, variable, *values.shape),
        empty_like(values),
        values=values.contiguous(),
        parents=parents.contiguous(),
        host_parents=parents.cpu().contiguous(),
        sigma=sigma,
    )
