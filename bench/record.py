"""Results of benchmarks, and the files under bench/results/speed that hold them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from race import FLOOR, OURS

FOLDER = Path(__file__).parent / "results" / "speed"
FASTEST = "the fastest peer"
_PACKAGES = ("torch", "numpy", "pymatgen", "matscipy", "vesin", "nvalchemi-toolkit-ops", "alignn")


@dataclass(frozen=True)
class Goal:
    """What is asked of a figure: to be at most ``limit``, or a share of another contender's.

    Attributes
    ----------
    factor : float or None
        ``over``'s figure must be at least this many times ours.
    over : str
        A contender, the floor, or the fastest peer.
    limit : float or None
        Our figure must be at most this, in the unit of the case.
    """

    factor: float | None = None
    over: str = FASTEST
    limit: float | None = None

    def met(self, values: Mapping[str, float]) -> bool | None:
        """Whether figures meet it; None if there is nothing to compare with."""
        if self.limit is not None:
            return values[OURS] <= self.limit
        other = self.over
        if other == FASTEST:
            other = fastest_peer(values) or FASTEST
        if other not in values or self.factor is None:
            return None
        return values[other] >= self.factor * values[OURS]


def fastest_peer(values: Mapping[str, float]) -> str | None:
    """Name of the best contender that is neither ours nor the floor."""
    others = {name: value for name, value in values.items() if name not in (OURS, FLOOR)}
    return min(others, key=others.__getitem__, default=None)


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes
    ----------
    suite, name, place : str
        What was compared, and where; the three identify a case.
    unit : {"s", "B", "%"}
    values : dict
        Figure of each contender, ours first; of the floor, if there is one.
    size, size_of : int, str
        How much work it is, e.g. its number of pairs.
    floor : str
        What the floor is made of.
    missing : dict
        Peers that did not take part, with the reason.
    goals : tuple of Goal
    reference : str or None
        Contender that the guard compares with.
    revision : str
    division : bool
        Whether the other figures are the parts of ours.
    """

    suite: str
    name: str
    place: str
    unit: str
    values: dict[str, float]
    size: int = 0
    size_of: str = ""
    floor: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    reference: str | None = None
    revision: str = ""
    division: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the case."""
        return self.suite, self.name, self.place

    @property
    def ratio(self) -> float | None:
        """Figure of the guard's reference over ours: larger is better."""
        if self.reference is None or self.reference not in self.values:
            return None
        return self.values[self.reference] / self.values[OURS]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Case:
        """Case of an entry of a file."""
        return cls(**{**entry, "goals": tuple(Goal(**goal) for goal in entry["goals"])})


@dataclass(frozen=True)
class Record:
    """Everything measured on one machine.

    Attributes
    ----------
    machine, versions : dict
    ceilings : dict
        Measured rates by place, see :func:`machine.ceilings`.
    cases : list of Case
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    ceilings: dict[str, dict[str, float]]
    cases: list[Case]

    @property
    def name(self) -> str:
        """The GPU's name, or the processor's."""
        return str(self.machine.get("gpu") or self.machine["processor"])

    def merged(self, older: Record) -> Record:
        """With the cases and ceilings of an older record that this one does not have."""
        cases = {case.key: case for case in (*older.cases, *self.cases)}
        ceilings = {**older.ceilings, **self.ceilings}
        return Record(self.machine, self.versions, ceilings, sorted_cases(cases.values()))

    def save(self, target: Path) -> Path:
        """Write to a file, or into a folder under the machine's name, on top of what is there."""
        if target.suffix != ".json":
            target = target / f"{re.sub(r'[^a-z0-9]+', '-', self.name.lower()).strip('-')}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        record = self.merged(load(target)) if target.exists() else self
        target.write_text(json.dumps(asdict(record), indent=1) + "\n")
        return target


def load(path: Path) -> Record:
    """Read a file."""
    content = json.loads(path.read_text())
    cases = [Case.from_json(entry) for entry in content.pop("cases")]
    return Record(**content, cases=cases)


def load_all(folder: Path = FOLDER) -> list[Record]:
    """All records of a folder, by name of the file."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


def sorted_cases(cases: Iterable[Case]) -> list[Case]:
    """By suite and place; within them in the order they came in."""
    return sorted(cases, key=lambda case: (case.suite, case.place))


def revision() -> str:
    """Commit of the checkout, with a plus if files differ from it; SMOACS_REVISION if it is set."""
    if "SMOACS_REVISION" in os.environ:
        return os.environ["SMOACS_REVISION"]
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        return "unknown"
    diff = [*git, "diff", "--quiet", "HEAD", "--", "..", ":!results"]
    changes = subprocess.run(diff, check=False)
    return found.stdout.strip() + "+" * bool(changes.returncode)


def versions() -> dict[str, str]:
    """Versions of the packages that take part."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
