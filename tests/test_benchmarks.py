"""The parts of the benchmarks that are no measurements: the guard, the records and their page."""

from __future__ import annotations

from dataclasses import replace

import pytest

import guard
import report
from goals import ON_A_GPU
from peers import Peer, Peers
from race import OURS, Place, Race, run
from record import FASTEST, Case, Goal, Record, load, load_all

MACHINE = {"processor": "Z1", "cores": 2}


def case(ours: float = 1.0, **values: float) -> Case:
    return Case(
        "suite", "name", "CPU, 1 thread", "s", {OURS: ours, "peer": 4.0, **values}, reference="peer"
    )


def record(ours: float, processor: str = "Z1") -> Record:
    return Record({"processor": processor}, {}, {}, [case(ours)])


def never() -> dict[str, float]:
    raise AssertionError("measured again without need")


def test_page_is_that_of_the_records() -> None:
    assert report.PAGE.read_text() == report.page(load_all()), (
        "docs/benchmarks.md is out of date: run `python bench/report.py`"
    )


def test_page_shows_figures_ratios_goals_and_who_is_missing() -> None:
    shown = case(2e-3, peer=5e-3, slow=1.0, floor=1e-3)
    shown = replace(
        shown, size=1000, size_of="pairs", missing={"vesin": "not installed"}, goals=(Goal(2.0),)
    )
    text = report.page([Record(MACHINE, {"torch": "2"}, {}, [shown])])
    for part in (
        "## Z1",
        "| 2.00 ms | 2.00 µs, 1,000 pairs |",
        "peer 5.00 ms, **2.5x**<br>slow 1.00 s, 500x",
        "1.00 ms, 0.5x",
        "2x the fastest peer: yes",
        "- vesin: not installed",
    ):
        assert part in text


def test_page_divides_a_step() -> None:
    values = {OURS: 0.1, "graph": 0.01, "the rest": 0.09}
    both = Case("step", "both", "GPU", "s", values, division=True)
    values = {OURS: 0.1, "masks": 0.02, "the rest": 0.08}
    alone = Case("step", "alone", "GPU", "s", values, division=True)
    rows = (
        "| part | both<br>GPU | alone<br>GPU |",
        "| --- | --- | --- |",
        "| whole step | 100 ms | 100 ms |",
        "| masks |  | 20.0 ms, 20 % |",
        "| graph | 10.0 ms, 10 % |  |",
        "| the rest | 90.0 ms, 90 % | 80.0 ms, 80 % |",
    )
    assert "\n".join(rows) in report.page([Record(MACHINE, {}, {}, [both, alone])])


def test_page_shows_goals_that_no_gpu_has_measured() -> None:
    suite, cases = next(iter(ON_A_GPU.items()))
    (name, *_), others = cases, [name for suite in ON_A_GPU.values() for name in suite][1:]
    measured = Case(suite, name, "GPU", "s", {OURS: 1.0}, goals=cases[name])
    missing = report.page([Record(MACHINE, {}, {}, [measured])]).split("not measured yet")[1]
    assert f"| {suite} | {name} |" not in missing
    assert all(f" | {other} | " in missing for other in others)


def test_page_says_how_flat_the_time_per_pair_is() -> None:
    sizes = {name: 10 * n for n, name in enumerate(report._FLAT, start=1)}
    cases = [
        Case("neighbour lists", name, "CPU, 1 thread", "s", {OURS: 1e-6}, size=size)
        for name, size in sizes.items()
    ]
    page = report.page([Record(MACHINE, {}, {}, cases)])
    assert "(CPU, 1 thread): 20.0 ns to 100 ns, largest over smallest 5." in page
    assert "smallest" not in report.page([Record(MACHINE, {}, {}, cases[1:])])


def test_a_loss_of_a_tenth_passes_at_once() -> None:
    assert guard.check(case(1.1), [record(1.0)], MACHINE, never) == case(1.1)


def test_noise_passes_after_another_try() -> None:
    tries = iter([{OURS: 1.6, "peer": 3.9}, {OURS: 1.1, "peer": 4.5}])
    passed = guard.check(case(2.0), [record(1.0)], MACHINE, lambda: next(tries))
    assert passed.values == {OURS: 1.1, "peer": 3.9}


def test_a_lasting_loss_fails_and_names_the_figures() -> None:
    values = {OURS: 1.3, "peer": 4.0}
    with pytest.raises(pytest.fail.Exception, match=r"3\.08 times .* asks for 3\.20"):
        guard.check(case(1.3), [record(1.0)], MACHINE, lambda: values)


def test_another_processor_is_judged_by_the_worst_record_with_more_patience() -> None:
    records = [record(1.0, "Z2"), record(2.0, "Z3")]
    assert guard.least_ratio(case(), records, MACHINE) == pytest.approx(0.5 * 2.0)
    assert guard.least_ratio(case(), [*records, record(1.6)], MACHINE) == pytest.approx(0.8 * 2.5)


def test_without_a_record_there_is_nothing_to_judge() -> None:
    with pytest.raises(pytest.skip.Exception):
        guard.check(case(), [], MACHINE, never)


def test_goals() -> None:
    values = {OURS: 2.0, "slow": 9.0, "fast": 4.0, "floor": 1.0}
    assert Goal(2.0).met(values)
    assert not Goal(2.1).met(values)
    assert Goal(4.0, "slow").met(values)
    assert not Goal(0.8, "floor").met(values)
    assert Goal(limit=2.0).met(values)
    assert not Goal(limit=1.9).met(values)
    assert Goal(2.0).met({OURS: 2.0}) is None
    assert FASTEST in report.goal(case(), Goal(2.0))


def test_a_record_keeps_what_was_not_measured_again(tmp_path) -> None:
    other = Case("suite", "other", "GPU", "s", {OURS: 1.0}, goals=(Goal(limit=2.0),))
    Record(MACHINE, {"torch": "1"}, {}, [case(3.0), other]).save(tmp_path)
    target = Record(MACHINE, {"torch": "2"}, {}, [case(1.0)]).save(tmp_path)
    assert target.name == "z1.json"
    assert load(target) == Record(MACHINE, {"torch": "2"}, {}, [case(1.0), other])


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.234, "s", "1.23 s"),
        (0.05678, "s", "56.8 ms"),
        (1e-7, "s", "100 ns"),
        (123456.0, "s", "123,456 s"),
        (2.5e9, "B", "2.50 GB"),
        (0.84, "%", "0.840 %"),
    ],
)
def test_figures_have_three_digits(value: float, unit: str, text: str) -> None:
    assert report.figure(value, unit) == text


def test_a_race_gives_all_contenders_turns_and_slow_ones_fewer() -> None:
    turns = []
    fast = lambda: turns.append("fast")  # noqa: E731
    slow = lambda: [turns.append("slow"), sum(range(200_000))]  # noqa: E731
    seconds = run(Race({"fast": fast, "slow": slow}, Place("cpu", 1), budget=0.02))
    assert seconds["fast"] < seconds["slow"]
    assert turns.count("fast") > turns.count("slow") > 1
    last = len(turns) - 1 - turns[::-1].index("slow")
    assert last > len(turns) / 2, "the slow one's turns are not spread over the race"
    assert turns[3::2] == turns[4::2], "not every timed call follows one of the same contender"


def test_a_peer_that_fails_is_left_out_with_the_reason() -> None:
    def broken() -> None:
        raise RuntimeError("no driver\nand a long trace")

    tried = Peers({"good": Peer(list), "bad": Peer(broken)}, {"gone": "not installed"}).tried()
    assert list(tried.present) == ["good"]
    assert tried.missing == {"gone": "not installed", "bad": "fails here: no driver"}
