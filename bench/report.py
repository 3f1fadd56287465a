"""docs/benchmarks.md from the records under bench/results/speed: python bench/report.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from goals import ON_A_GPU
from race import FLOOR, OURS
from record import Case, Goal, Record, fastest_peer, load_all

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

_INTRODUCTION = """\
# Benchmarks

Made by `python bench/report.py` from the records under `bench/results/speed`; do not edit.

Every row is one run: ours and the others take turns, and the shortest time of each counts. A ratio
is the other's figure over ours, so above 1 we are faster. The floor is what the machine needs,
measured in the same turns, to copy the bytes that the work must read and write, or to do its matrix
products alone: on a CPU our own products, which are faster than torch's. One thread of the CPU is
measured by the process's CPU time, more threads by the clock, both after a call that does not
count, for ours and the others alike; a GPU between two events and with a cold L2. `make bench`
measures again; `make bench-check` compares ratios with these and fails on a loss of more than 20 %.

Parts of a step are timed by torch's profiler, whose own time, up to a tenth, goes to the rest. On a
CPU, ALIGNN's convolutions are one operation; what they consist of shows with the separate
operations of training and of GPUs.
"""
_ON_A_GPU = """\
No GPU was at hand: the CUDA kernels are compiled, not run. `bash bench/gpu.sh` measures them. This
is asked of an H200:
"""
_FLAT = (
    "W1: 256 x 5 atoms",
    "W2: 32 x 135 atoms",
    "W3: 10,000 atoms",
    "4,096 x 5 atoms",
    "100,000 atoms",
)
_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "%": ((1.0, "%"),),
}


def figure(value: float, unit: str) -> str:
    """Three digits and a unit, e.g. ``1.85 ms``."""
    for scale, name in _SCALES[unit]:
        if value >= 0.9995 * scale or name == _SCALES[unit][-1][1]:
            scaled = value / scale
            digits = f"{scaled:,.0f}" if scaled >= 99.95 else f"{scaled:#.3g}"
            return f"{digits} {name}"
    raise AssertionError


def ratio(case: Case, name: str) -> str:
    """A contender's figure over ours, or a part's share of it; nothing for shares themselves."""
    if case.unit == "%":
        return ""
    quotient = case.values[name] / case.values[OURS]
    return f"{100 * quotient:.3g} %" if case.division else f"{quotient:.3g}x"


def wish(asked: Goal, unit: str) -> str:
    """What is asked."""
    if asked.limit is not None:
        return f"at most {figure(asked.limit, unit)}"
    if asked.over == FLOOR:
        return f"within {1 / (asked.factor or 1):.3g}x of the floor"
    return f"{asked.factor:.3g}x {asked.over}"


def goal(case: Case, asked: Goal) -> str:
    """What is asked, and whether it is so."""
    met = asked.met(case.values)
    answer = "not measured" if met is None else "yes" if met else "**no**"
    return f"{wish(asked, case.unit)}: {answer}"


def page(records: Sequence[Record]) -> str:
    """The whole page."""
    sections = [_section(record) for record in records] or ["Nothing has been recorded yet.\n"]
    return "\n".join([_INTRODUCTION, *sections, *_not_measured(records)])


def _not_measured(records: Iterable[Record]) -> list[str]:
    """Goals on a GPU of cases that no record has."""
    measured = {case.key for record in records for case in record.cases}
    rows = [
        f"| {suite} | {name} | {'<br>'.join(wish(asked, 's') for asked in goals)} |"
        for suite, cases in ON_A_GPU.items()
        for name, goals in cases.items()
        if (suite, name, "GPU") not in measured
    ]
    if not rows:
        return []
    head = ["| suite | case | goal |", "|---|---|---|"]
    return ["\n".join(["## On a GPU: not measured yet\n", _ON_A_GPU, *head, *rows]) + "\n"]


def text(cases: Iterable[Case], ceilings: Mapping[str, Mapping[str, float]]) -> str:
    """The same for a terminal."""
    lines = [f"{place}: {_ceiling(rates)}" for place, rates in ceilings.items()]
    for suite, members in groupby(cases, key=lambda case: case.suite):
        lines += ["", suite]
        for case in members:
            lines.append(f"  {case.name} ({case.place})   {figure(case.values[OURS], case.unit)}")
            for name, value in case.values.items():
                if name != OURS:
                    what = f" ({case.floor})" if name == FLOOR else ""
                    shown = f"{name}{what}"
                    lines.append(
                        f"    {figure(value, case.unit):>10} {ratio(case, name):>7}  {shown}"
                    )
            lines += [f"    goal: {goal(case, g)}" for g in case.goals]
            lines += [f"    left out: {name}: {why}" for name, why in case.missing.items()]
    return "\n".join(lines)


def _section(record: Record) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    machine = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in record.machine.items()
    )
    parts = [f"## {record.name}\n", f"Machine: {machine}.  ", f"Packages: {versions}.\n"]
    parts += [f"- {place}: {_ceiling(rates)}" for place, rates in record.ceilings.items()]
    for suite, members in groupby(record.cases, key=lambda case: case.suite):
        cases = list(members)
        table = _division(cases) if cases[0].division else _table(cases)
        parts += ["", f"### {suite[0].upper()}{suite[1:]}\n", table]
        parts += _flatness(cases) if suite == "neighbour lists" else []
    missing = {
        f"- {name}: {why}"
        for case in record.cases
        for name, why in case.missing.items()
        if why != "runs on the CPU only"
    }
    if missing:
        parts += ["", "Left out:\n", *sorted(missing)]
    return "\n".join(parts) + "\n"


def _ceiling(rates: Mapping[str, float]) -> str:
    copied, product = rates["copy_bytes_per_s"] / 1e9, rates["product_flop_per_s"] / 1e9
    return f"copies {copied:,.3g} GB/s, multiplies float32 matrices at {product:,.4g} GFLOP/s"


def _table(cases: list[Case]) -> str:
    rows = [
        "| case | where | smoacs | per item | others: figure, ratio | floor, ratio | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        others = [name for name in case.values if name not in (OURS, FLOOR)]
        floor = f"{_beside(case, FLOOR)} ({case.floor})" if FLOOR in case.values else ""
        cells = [
            case.name,
            case.place,
            figure(case.values[OURS], case.unit),
            _per_item(case),
            "<br>".join(f"{name} {_beside(case, name)}" for name in others),
            floor,
            "<br>".join(goal(case, g) for g in case.goals),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _division(cases: list[Case]) -> str:
    """Parts in rows, the largest first and the rest last, cases in columns."""
    shares: dict[str, float] = {}
    for case in cases:
        for name, value in case.values.items():
            shares[name] = max(value / case.values[OURS], shares.get(name, 0))
    last = list(cases[0].values)[-1]
    names = sorted(shares, key=lambda name: (name == last, -shares[name]))
    head = ["part", *(f"{case.name}<br>{case.place}" for case in cases)]
    rows = [head, ["---"] * len(head)]
    for name in names:
        shown = [_part(case, name) if name in case.values else "" for case in cases]
        rows.append(["whole step" if name == OURS else name, *shown])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _part(case: Case, name: str) -> str:
    share = "" if name == OURS else f", {ratio(case, name)}"
    return figure(case.values[name], case.unit) + share


def _flatness(cases: list[Case]) -> list[str]:
    """How much the time per pair depends on the number of atoms."""
    lines = []
    for place, members in groupby(cases, key=lambda case: case.place):
        each = {case.name: case.values[OURS] / case.size for case in members if case.size}
        if all(name in each for name in _FLAT):
            low, high = (pick(each[name] for name in _FLAT) for pick in (min, max))
            span = (
                f"{figure(low, 's')} to {figure(high, 's')}, largest over smallest {high / low:.3g}"
            )
            lines += ["", f"Time per pair of {'; '.join(_FLAT)} ({place}): {span}."]
    return lines


def _beside(case: Case, name: str) -> str:
    shown = [figure(case.values[name], case.unit), ratio(case, name)]
    if name == fastest_peer(case.values) and shown[1]:
        shown[1] = f"**{shown[1]}**"
    return ", ".join(filter(None, shown))


def _per_item(case: Case) -> str:
    if not case.size:
        return ""
    each = f"{figure(case.values[OURS] / case.size, case.unit)}, " if case.unit == "s" else ""
    return f"{each}{case.size:,} {case.size_of}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(load_all()))


if __name__ == "__main__":
    main()
