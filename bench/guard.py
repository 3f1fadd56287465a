"""Has a part become slower? Judged by its ratio to other code that was timed in the same run.

Times differ between machines and with what else runs on them; the ratio to a reference that works
on the same data, in turns, on the same kind of resources, hardly does. What noise remains makes
times longer, never shorter: a ratio of minima gets better with every repeat, so a loss is only
believed after several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from race import OURS
from record import Case, Record

LOSS = 0.2  # share of the recorded ratio
LOSS_ELSEWHERE = 0.5  # on a processor without a record, where the ratio differs for good reasons
_ATTEMPTS = 5


def check(
    case: Case,
    records: Sequence[Record],
    machine: Mapping[str, Any],
    again: Callable[[], dict[str, float]],
) -> Case:
    """The case with its shortest times; fails if it lost too much, skips without a record.

    Parameters
    ----------
    case : Case
        As measured once.
    records : sequence of Record
    machine : mapping
        This machine, as :func:`machine.describe` gives it.
    again : callable
        Measures the case's figures once more.
    """
    wanted = least_ratio(case, records, machine)
    if wanted is None:
        pytest.skip(f"{case.suite}, {case.name}: no record to compare with")
    for _ in range(_ATTEMPTS - 1):
        if (case.ratio or 0.0) >= wanted:
            return case
        values = again()
        case = replace(case, values={n: min(t, values[n]) for n, t in case.values.items()})
    if (case.ratio or 0.0) >= wanted:
        return case
    pytest.fail(
        f"{case.suite}, {case.name}: {case.ratio:.2f} times as fast as {case.reference} "
        f"({case.values[OURS]:.3g} s), but the record asks for {wanted:.2f}",
        pytrace=False,
    )


def least_ratio(case: Case, records: Sequence[Record], machine: Mapping[str, Any]) -> float | None:
    """Ratio that a case must reach: from this processor's or GPU's record, else from the worst."""
    part = "gpu" if case.place == "GPU" else "processor"
    here: list[float] = []
    elsewhere: list[float] = []
    for record in records:
        for old in record.cases:
            if old.key == case.key and old.reference == case.reference and old.ratio:
                same = record.machine.get(part) == machine.get(part)
                (here if same else elsewhere).append(old.ratio)
    if here:
        return (1 - LOSS) * min(here)
    if elsewhere:
        return (1 - LOSS_ELSEWHERE) * min(elsewhere)
    return None
