"""Fixtures of the benchmarks, their printed summary, and the guard against losses of speed.

``pytest bench`` measures and prints; ``--record=FOLDER`` also writes the figures; ``--check``
measures only ours and the reference of each guarded case, and compares with the written figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import guard
import machine
import report
from goals import ON_A_GPU
from peers import Peer, Peers, on_one_thread
from race import FLOOR, OURS, Function, Place, Race, run
from record import Case, Goal, Record, load_all, revision, versions
from smoacs.ops import kept_memory

ONE = "one thread"
ONE_THREAD = Place("cpu", 1)
ALL_THREADS = Place("cpu", torch.get_num_threads())
GPU = Place("cuda", ALL_THREADS.threads)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the benchmarks."""
    group = parser.getgroup("smoacs benchmarks")
    group.addoption("--seconds", type=float, default=1.0, help="time for each contender of a case")
    group.addoption("--record", type=Path, help="write the figures into this file or folder")
    group.addoption("--check", action="store_true", help="compare ratios with the written figures")


def pytest_configure(config: pytest.Config) -> None:
    """Register marks; start an empty session."""
    config.addinivalue_line("markers", "guard: compared with the record by make bench-check")
    config.addinivalue_line("markers", "long: takes minutes")
    config.stash[_SESSION] = Session(config.option.record, revision())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@dataclass
class Session:
    """What has been measured so far; written after each case, so that a crash loses nothing.

    Attributes
    ----------
    target : Path or None
        File or folder of the record.
    revision : str
    cases : list of Case
    ceilings : dict
        By place, see :func:`machine.ceilings`.
    """

    target: Path | None
    revision: str
    cases: list[Case] = field(default_factory=list)
    ceilings: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, case: Case) -> Case:
        """Keep a case."""
        if case.place == str(GPU):
            case = replace(case, goals=case.goals + ON_A_GPU.get(case.suite, {}).get(case.name, ()))
        case = replace(case, revision=self.revision)
        self.cases.append(case)
        if self.target is not None:
            Record(machine.describe(), versions(), self.ceilings, self.cases).save(self.target)
        return case

    def visit(self, place: Place) -> None:
        """Measure the ceilings of a place that is new."""
        if str(place) not in self.ceilings:
            self.ceilings[str(place)] = machine.ceilings(place, 0.5)


_SESSION: pytest.StashKey[Session] = pytest.StashKey()


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    """Where cases are kept that are no race."""
    return request.config.stash[_SESSION]


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """Keep freed memory, as runs do; page faults would make times depend on what ran before."""
    with kept_memory():
        yield


def _places(*places: Place) -> list[Any]:
    return [
        pytest.param(p, id=str(p), marks=[pytest.mark.cuda] if p.device == "cuda" else [])
        for p in places
    ]


@pytest.fixture(params=_places(ONE_THREAD, GPU))
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """One thread of the CPU, and the GPU."""
    with request.param.entered():
        yield request.param


@pytest.fixture(params=_places(ALL_THREADS, GPU))
def full_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """All threads of the CPU, and the GPU."""
    with request.param.entered():
        yield request.param


@pytest.fixture
def all_threads() -> Iterator[Place]:
    """Every core of the CPU, where there are several."""
    if ALL_THREADS.threads == 1:
        pytest.skip("one thread only")
    with ALL_THREADS.entered():
        yield ALL_THREADS


class Compare:
    """Races ours against the others in the way the options ask for."""

    def __init__(self, request: pytest.FixtureRequest, session: Session) -> None:
        self._request, self._session = request, session
        self._budget: float = request.config.option.seconds
        self.check: bool = request.config.option.check

    def only(self, reference: str) -> str | None:
        """The only peer that is needed; None: all of them."""
        return reference if self.check else None

    def __call__(
        self,
        suite: str,
        name: str,
        place: Place,
        ours: Function,
        peers: Peers,
        *,
        size: tuple[int, str] = (0, ""),
        floor: tuple[str, Function] | None = None,
        goals: tuple[Goal, ...] = (),
        reference: str | None = None,
    ) -> Case:
        """Measure one case; with ``--check``, fail if it has lost too much to its reference."""
        if not self.check:
            self._session.visit(place)
        contenders = {OURS: ours, **peers.functions}
        if floor is not None:
            contenders[FLOOR] = floor[1]
        if self.check:
            if reference is None:
                pytest.fail(f"{suite}, {name}: a guarded case needs a reference")
            contenders = {OURS: ours, reference: contenders[reference]}
        case = Case(
            suite,
            name,
            str(place),
            "s",
            self._measure(contenders, place),
            size=size[0],
            size_of=size[1],
            floor=floor[0] if floor else "",
            missing=peers.missing,
            goals=goals,
            reference=reference,
        )
        if self.check:
            again = partial(self._measure, contenders, place)
            case = guard.check(case, load_all(), machine.describe(), again)
        return self._session.add(case)

    def scaling(
        self,
        suite: str,
        name: str,
        place: Place,
        ours: Function,
        *,
        size: tuple[int, str],
        floor: tuple[str, Function] | None = None,
    ) -> Case:
        """Measure what more threads than one bring: 1.7 times the speed is asked of two."""
        alone = Peers({ONE: Peer(on_one_thread(ours))})
        goals = (Goal(0.85 * place.threads, ONE),)
        return self(suite, name, place, ours, alone, size=size, floor=floor, goals=goals)

    def _measure(self, contenders: dict[str, Function], place: Place) -> dict[str, float]:
        race = Race(contenders, place, self._budget)
        if self.check:
            return run(race)
        # pytest-benchmark counts our rounds, and prints its own table of them.
        benchmark = self._request.getfixturevalue("benchmark")
        benchmark.pedantic(race.lead, setup=race.follow, rounds=race.rounds)
        return race.seconds


@pytest.fixture
def compare(request: pytest.FixtureRequest, session: Session) -> Compare:
    """See :class:`Compare`."""
    return Compare(request, session)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print every figure beside its peers'."""
    done = config.stash[_SESSION]
    if done.cases:
        terminalreporter.section("smoacs and its peers")
        terminalreporter.write_line(report.text(done.cases, done.ceilings))
