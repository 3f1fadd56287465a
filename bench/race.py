"""Time several functions in one run, turn by turn, so that noise meets all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Function = Callable[[], Any]
OURS = "smoacs"
FLOOR = "floor"

_LEAST_ROUNDS, _MOST_ROUNDS = 3, 200
_BRIEF = 20e-3  # seconds; what takes longer fills the caches of a CPU itself
_FLUSH_BYTES = 1 << 31  # many times the L2 of any GPU; writing it takes half a millisecond


@dataclass(frozen=True)
class Place:
    """Where functions run.

    Attributes
    ----------
    device : {"cpu", "cuda"}
    threads : int
        Of torch and of the kernels, on the CPU.
    """

    device: str
    threads: int

    def __str__(self) -> str:
        if self.device == "cuda":
            return "GPU"
        return f"CPU, {self.threads} thread{'s' * (self.threads > 1)}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Use this many threads inside."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def clock(self) -> Callable[[Function], float]:
        """A function that runs a function once and returns how long it took, in seconds.

        One thread is measured by the process's CPU time: the same as the wall's on an idle
        machine, and still right on a busy one, where others take turns on the core.
        """
        if self.device == "cuda":
            return _DeviceClock()
        return _HostClock(time.process_time if self.threads == 1 else time.perf_counter)


class _HostClock:
    """Difference of two readings of a clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def __call__(self, function: Function) -> float:
        start = self._now()
        result = function()
        seconds = self._now() - start
        del result  # freed outside of the measured time, for every contender
        return seconds


class _DeviceClock:
    """Time between two events on the GPU, with a cold L2.

    A buffer larger than the L2 is overwritten before each call. While that goes on, the host
    queues what it can of the call, whose launches then do not count. Once the call has waited for
    the GPU, to learn the size of a list, they do.
    """

    def __init__(self) -> None:
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self._start = torch.cuda.Event(enable_timing=True)
        self._stop = torch.cuda.Event(enable_timing=True)

    def __call__(self, function: Function) -> float:
        torch.cuda.synchronize()
        self._flush.zero_()
        self._start.record()
        result = function()
        self._stop.record()
        torch.cuda.synchronize()
        del result
        return float(self._start.elapsed_time(self._stop)) / 1e3


class Race:
    """Functions that run in turns; each has a budget of time, spread evenly over the rounds.

    Parameters
    ----------
    contenders : mapping from str to callable
        The first is the one that counts the rounds.
    place : Place
    budget : float
        Seconds for each contender.
    """

    def __init__(self, contenders: Mapping[str, Function], place: Place, budget: float) -> None:
        self._contenders = dict(contenders)
        self._clock = place.clock()
        self._budget = budget
        self._warm = place.device == "cpu"
        self._times: dict[str, list[float]] = {name: [] for name in contenders}
        self._leader = next(iter(self._contenders))
        for function in self._contenders.values():  # warm up: caches, compilation, allocators
            function()
        once = self._clock(self._contenders[self._leader])
        self.rounds = int(min(max(budget / once, _LEAST_ROUNDS), _MOST_ROUNDS))
        self._round = 0
        gc.collect()

    def lead(self) -> None:
        """The first contender's turn."""
        self._time(self._leader)

    def follow(self) -> None:
        """The others' turns; who has used up its budget so far sits out."""
        self._round += 1
        allowance = self._budget * self._round / self.rounds
        for name, times in self._times.items():
            if name != self._leader and sum(times) < allowance:
                self._warm_up(name)
                self._time(name)
        self._warm_up(self._leader)

    @property
    def seconds(self) -> dict[str, float]:
        """Shortest time of each contender."""
        return {name: min(times) for name, times in self._times.items()}

    def _warm_up(self, name: str) -> None:
        """What a contender finds in the caches is its own, not that of whoever ran before."""
        if self._warm and min(self._times[name], default=0) < _BRIEF:
            self._contenders[name]()

    def _time(self, name: str) -> None:
        self._times[name].append(self._clock(self._contenders[name]))


def run(race: Race) -> dict[str, float]:
    """All rounds of a race; the shortest time of each contender in seconds."""
    for _ in range(race.rounds):
        race.follow()
        race.lead()
    return race.seconds
