"""Runs: folders, repeatability, interruption, evaluation of the files."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pymatgen.core import Lattice, Structure

import smoacs
from analytic import AnalyticPredictor
from smoacs import Custom, Minimize, ToleranceFactor, Window, runs, templates
from smoacs.job import Given
from smoacs.reevaluation import evaluate
from smoacs.run_folder import RunFolder, atomic
from smoacs.runs import Interrupted, design, resume

OBJECTIVES = [Window("band_gap", 2.5, 0.5), Minimize("formation_energy", below=-0.5)]
STEPS = 20
GIVEN = Given(predictors=[AnalyticPredictor()])


def small(out: Path | None = None, **options):
    options = {"candidates": 6, "steps": STEPS, "predictors": AnalyticPredictor(), **options}
    return design(templates.perovskite(), options.pop("objectives", OBJECTIVES), out=out, **options)


def interrupt_at(step: int):
    def on_step(report, optimizer) -> None:
        if report.step == step:
            signal.raise_signal(signal.SIGINT)

    return on_step


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> runs.Run:
    return small(tmp_path_factory.mktemp("runs") / "finished")


def contents(folder: Path) -> dict[str, bytes]:
    """All result files but those that hold times."""
    skip = {"summary.json", "log.txt", "config.yaml", "checkpoint.pt", "history.npz"}
    files = (f for f in folder.rglob("*") if f.is_file() and f.name not in skip)
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def same_history(a: Path, b: Path) -> bool:
    with np.load(a / "history.npz") as x, np.load(b / "history.npz") as y:
        return x.files == y.files and all(
            np.array_equal(x[n], y[n], equal_nan=n != "objectives") for n in x.files
        )


# --- Results -------------------------------------------------------------------------------------


def test_folder_of_a_finished_run(finished) -> None:
    folder = finished.folder
    successes = finished.table[finished.table["success"]]
    assert len(successes) > 0
    assert {f.name for f in folder.iterdir()} == {
        "config.yaml",
        "results.csv",
        "summary.json",
        "structures",
        "history.npz",
        "checkpoint.pt",
        "log.txt",
    }
    files = sorted(str(f.relative_to(folder)) for f in folder.glob("structures/*"))
    assert files == successes["structure_file"].tolist()
    first = successes.iloc[0]
    assert first["structure_file"] == f"structures/{first['candidate']:03d}_{first['formula']}.cif"
    assert (finished.table.loc[~finished.table["success"], "structure_file"] == "").all()

    read = pd.read_csv(folder / "results.csv", keep_default_na=False)
    assert read.columns.tolist() == finished.table.columns.tolist()
    assert read["success"].tolist() == finished.table["success"].tolist()
    assert np.allclose(read["band_gap"], finished.table["band_gap"], atol=1e-6)

    for structure, file in zip(finished.structures, files, strict=True):
        on_disk = Structure.from_file(folder / file)
        assert structure.lattice == on_disk.lattice
        assert structure.composition == on_disk.composition

    with np.load(folder / "history.npz") as history:
        assert history["loss"].shape == (STEPS, 6)
        assert history["values"].shape == (STEPS, 6, 2)
        assert history["objectives"].tolist() == ["band_gap", "formation_energy"]
        assert history["step"].tolist() == list(range(1, STEPS + 1))
        assert np.isnan(history["temperature"][-1])


def test_summary(finished) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert summary == finished.summary
    assert summary["n_candidates"] == 6
    assert summary["success_rate"] == pytest.approx(finished.table["success"].mean())
    assert set(summary["criteria"]) == {"band_gap", "formation_energy", "neutral", "geometry"}
    assert summary["novel_rate"] is None
    assert summary["seed"] == 0
    assert summary["device"] == "cpu"
    assert summary["seconds_per_step"] * STEPS <= summary["wall_time_s"] + 0.01
    assert summary["peak_memory_mb"] > 50
    assert {"smoacs", "python", "torch", "numpy", "pymatgen", "smact"} <= set(summary["versions"])
    assert summary["predictors"] == [
        {
            "name": "analytic",
            "properties": {"band_gap": "eV", "formation_energy": "eV/atom"},
            "weights_sha256": None,
        }
    ]


def test_cells_keep_right_angles_exactly(finished) -> None:
    assert (finished.table[["alpha", "beta", "gamma"]] == 90.0).all(axis=None)


def test_weights_are_hashed() -> None:
    class Weighted(AnalyticPredictor, torch.nn.Module):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            AnalyticPredictor.__init__(self)
            self.register_buffer("weights", torch.ones(3))

    run = small(predictors=Weighted(), steps=1)
    assert len(run.summary["predictors"][0]["weights_sha256"]) == 64


def test_in_memory_equals_on_disk(finished) -> None:
    run = small()
    assert run.folder is None
    columns = [name for name in run.table if name != "structure_file"]
    assert run.table[columns].equals(finished.table[columns])
    assert np.array_equal(run.history["loss"], finished.history["loss"], equal_nan=True)


def test_same_seed_same_files_for_any_batch_size(finished, tmp_path) -> None:
    small(tmp_path / "again", sites_per_batch=10)
    assert contents(tmp_path / "again") == contents(finished.folder)
    assert same_history(tmp_path / "again", finished.folder)
    small(tmp_path / "other", seed=1)
    assert contents(tmp_path / "other") != contents(finished.folder)


def test_keep_all_writes_every_structure(tmp_path) -> None:
    run = small(tmp_path / "run", objectives=[Minimize("band_gap", below=-1.0)], keep_all=True)
    assert run.structures == []
    assert len(list((tmp_path / "run" / "structures").iterdir())) == 6
    assert evaluate(tmp_path / "run", GIVEN).reproduced


def test_batch_of_one(tmp_path) -> None:
    """Fault 9: a batch of one crashed."""
    run = small(tmp_path / "run", candidates=1, keep_all=True)
    assert len(run.table) == 1
    assert len(evaluate(tmp_path / "run", GIVEN).table) == 1


def test_elements_are_restricted() -> None:
    allowed = {"Cs", "Rb", "Ca", "Sr", "Cl", "Br"}
    run = small(elements=sorted(allowed), steps=3, objectives=[Minimize("band_gap")])
    assert {el.symbol for s in run.structures for el in s.composition} <= allowed
    excluded = {el.symbol for s in run.structures for el in s.composition} - {"Cl"}
    run = small(exclude=sorted(excluded), steps=3, objectives=[Minimize("band_gap")])
    assert not {el.symbol for s in run.structures for el in s.composition} & excluded

    class Ignorant(AnalyticPredictor):
        elements = frozenset({55, 20, 17})

    run = small(predictors=Ignorant(), steps=3, objectives=[Minimize("band_gap")])
    assert set(run.table["formula"]) == {"CsCaCl3"}


def test_novel_rate(tmp_path, finished) -> None:
    known = tmp_path / "known"
    known.mkdir()
    finished.structures[0].to(str(known / "a.cif"), fmt="cif")
    run = small(reference=known)
    n = run.summary["n_success"]
    assert run.summary["novel_rate"] == pytest.approx(1 - 1 / n)


# --- Failures ------------------------------------------------------------------------------------


class Breaking(AnalyticPredictor):
    """Not a number for barium."""

    def predict(self, crystals, graph):
        out = super().predict(crystals, graph)
        barium = crystals.composition[:, 55] == 1.0
        hit = torch.zeros(len(crystals)).index_add(0, crystals.crystal_index, barium.float()) > 0
        return {name: torch.where(hit, torch.nan, value) for name, value in out.items()}


def test_failed_candidates_are_counted_and_logged(tmp_path) -> None:
    barium, caesium = (templates.perovskite().restrict(z) for z in ({56, 22, 8}, {55, 20, 17}))
    run = design(
        [barium, caesium],
        [Minimize("band_gap")],
        predictors=Breaking(),
        candidates=5,
        steps=5,
        out=tmp_path / "run",
    )
    assert run.table["success"].tolist() == [False, True, False, True, False]
    assert run.table["band_gap"].isna().tolist() == [True, False, True, False, True]
    assert run.summary["failures"] == {"the prediction is not a finite number": 3}
    log = (tmp_path / "run" / "log.txt").read_text()
    for candidate in (0, 2, 4):
        assert f"candidate {candidate} failed: the prediction is not a finite number" in log


class Hungry(AnalyticPredictor):
    """Has memory for ten sites."""

    def predict(self, crystals, graph):
        if crystals.frac_coords.shape[0] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().predict(crystals, graph)


def test_smaller_batches_when_memory_runs_out(tmp_path, finished) -> None:
    small(tmp_path / "run", predictors=Hungry())
    assert contents(tmp_path / "run") == contents(finished.folder)

    class Starving(AnalyticPredictor):
        def predict(self, crystals, graph):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        small(predictors=Starving())


def test_errors_are_logged_and_the_run_stays_resumable(tmp_path) -> None:
    class Faulty(AnalyticPredictor):
        calls = 0

        def predict(self, crystals, graph):
            Faulty.calls += 1
            if Faulty.calls == 4:
                raise RuntimeError("cosmic ray")
            return super().predict(crystals, graph)

    with pytest.raises(RuntimeError, match="cosmic ray"):
        small(tmp_path / "run", predictors=Faulty())
    assert "RuntimeError: cosmic ray" in (tmp_path / "run" / "log.txt").read_text()
    assert resume(tmp_path / "run", GIVEN).summary["n_candidates"] == 6


# --- Interruption --------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("step", [1, 7, STEPS])
def test_interrupted_run_resumes_to_the_same_files(tmp_path, preset: str, step: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"smoacs resume {tmp_path / 'cut'}"):
        small(tmp_path / "cut", preset=preset, on_step=interrupt_at(step))
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "cut" / "summary.json").exists()
    steps: list[int] = []
    resume(tmp_path / "cut", GIVEN, on_step=lambda report, _: steps.append(report.step))
    assert steps == list(range(step + 1, STEPS + 1))
    small(tmp_path / "straight", preset=preset)
    assert contents(tmp_path / "cut") == contents(tmp_path / "straight")
    assert same_history(tmp_path / "cut", tmp_path / "straight")


def test_checkpoints_by_time(tmp_path, monkeypatch) -> None:
    """A killed run continues from its last checkpoint, without one from the start."""

    def kill(report, optimizer) -> None:
        if report.step == 5:
            raise RuntimeError("killed")

    for seconds, first in ((0.0, 5), (60.0, 1)):
        monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", seconds)
        out = tmp_path / f"every{seconds:.0f}"
        with pytest.raises(RuntimeError, match="killed"):
            small(out, on_step=kill)
        steps: list[int] = []
        resume(out, GIVEN, on_step=lambda report, _, steps=steps: steps.append(report.step))
        assert steps[0] == first
    assert contents(tmp_path / "every0") == contents(tmp_path / "every60")


def test_checkpoints_hold_data_only(finished) -> None:
    state = torch.load(finished.folder / "checkpoint.pt", weights_only=True)
    assert state["optimizer"]["step_count"] == STEPS
    assert state["elapsed"] > 0


def test_damaged_checkpoint(tmp_path) -> None:
    with pytest.raises(Interrupted):
        small(tmp_path / "run", on_step=interrupt_at(2))
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged; delete it"):
        resume(tmp_path / "run", GIVEN)


def test_ctrl_c_without_a_folder_is_an_ordinary_interrupt(
    request: pytest.FixtureRequest,
) -> None:
    # A shell's background jobs ignore Ctrl-C from the start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt) as caught:
        small(on_step=interrupt_at(2))
    assert not isinstance(caught.value, Interrupted)


def test_files_are_whole_or_absent(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as file:
            file.write(b"half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- Folders -------------------------------------------------------------------------------------


def test_finished_runs_are_only_replaced_by_force(tmp_path) -> None:
    out = tmp_path / "run"
    small(out, keep_all=True)
    (out / "structures" / "notes.txt").write_text("mine")
    (out / "report.md").write_text("mine")
    with pytest.raises(ValueError, match=r"holds a finished run; .*--force"):
        small(out, seed=1)
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 0
    run = small(out, seed=1, force=True)
    assert yaml.safe_load((out / "config.yaml").read_text())["seed"] == 1
    listed = {"structures/notes.txt", *run.table["structure_file"]} - {""}
    assert {f"structures/{f.name}" for f in (out / "structures").iterdir()} == listed
    assert (out / "report.md").read_text() == "mine"


def test_failed_requests_leave_an_earlier_run_alone(tmp_path, finished) -> None:
    before = contents(finished.folder)
    with pytest.raises(ValueError, match="no predictor gives 'hardness'"):
        small(finished.folder, objectives=[Minimize("hardness")], force=True)
    assert contents(finished.folder) == before
    with pytest.raises(ValueError, match="no predictor gives 'hardness'"):
        small(tmp_path / "new", objectives=[Minimize("hardness")])
    assert not (tmp_path / "new").exists()


def test_unfinished_runs_ask_to_be_resumed(tmp_path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        small(out, on_step=interrupt_at(2))
    with pytest.raises(ValueError, match=f"unfinished run; .*smoacs resume {out}"):
        small(out)
    with pytest.raises(ValueError, match="has no results yet"):
        evaluate(out, GIVEN)


def test_other_folders_are_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        small(tmp_path, force=True)
    with pytest.raises(ValueError, match=r"thesis\.tex is a file"):
        small(tmp_path / "thesis.tex" / "run")
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_needs_an_unfinished_run(tmp_path, finished) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        resume(tmp_path)
    with pytest.raises(ValueError, match=r"is finished; its results are in results\.csv"):
        resume(finished.folder)


# --- Requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictors": "smoacs-alinn-mp"}, "no predictor 'smoacs-alinn-mp'"),
        ({"objectives": [Window("band_gap", 25.0, 0.2)]}, "outside the range of analytic: 0 to 10"),
        ({"objectives": [Minimize("tc")]}, "no predictor gives 'tc'"),
        ({"objectives": []}, "objectives"),
        ({"objectives": OBJECTIVES * 2}, "two objectives are named 'band_gap'"),
        ({"objectives": [Custom("success", torch.det)]}, "cannot be named 'success'"),
        ({"objectives": [Custom("band_gap", torch.det)]}, "cannot be named 'band_gap'"),
        ({"elements": "Cs,Pbb"}, "unknown element 'Pbb'"),
        ({"elements": "Cs,I"}, r"no charge-neutral choice from I, Cs: .*B site needs"),
        ({"candidates": 0}, "candidates: .*got 0"),
        ({"device": "cuda:99"}, "there is no device 'cuda:99'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"oxidation": "x"}, "unknown oxidation table"),
        ({"preset": "fast"}, "unknown preset 'fast'"),
        ({"start": "fast"}, "start: "),
    ],
)
def test_mistakes_are_found_before_anything_is_written(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        small(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def salt_template():
    salt = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return templates.from_structure(salt, "salt")


def test_tolerance_factor_needs_a_perovskite() -> None:
    with pytest.raises(ValueError, match="needs A, B and X sites, which template salt lacks"):
        design(salt_template(), [ToleranceFactor()], predictors=AnalyticPredictor())


def test_several_templates_made_in_python_can_be_resumed(tmp_path) -> None:
    both = [salt_template(), templates.perovskite()]
    options = {"predictors": AnalyticPredictor(), "candidates": 5, "steps": 4, "keep_all": True}
    with pytest.raises(Interrupted):
        design(both, OBJECTIVES, out=tmp_path / "cut", on_step=interrupt_at(2), **options)
    (tmp_path / "cut").rename(tmp_path / "moved")
    run = resume(tmp_path / "moved", GIVEN)
    assert run.table["n_sites"].tolist() == [2, 5, 2, 5, 2]
    straight = design(both, OBJECTIVES, **options)
    assert run.table["formula"].tolist() == straight.table["formula"].tolist()
    assert evaluate(tmp_path / "moved", GIVEN).reproduced


def test_templates_without_a_neutral_choice_are_left_out() -> None:
    both = [salt_template(), templates.perovskite()]
    run = design(
        both,
        [Minimize("band_gap")],
        predictors=AnalyticPredictor(),
        candidates=3,
        steps=2,
        elements="Na,Cl",
    )
    assert set(run.table["formula"]) == {"NaCl"}


def test_custom_objectives_need_python_again(tmp_path) -> None:
    dense = Custom("density", lambda d: d.crystals.volume / d.crystals.n_sites)
    run = small(tmp_path / "run", objectives=[*OBJECTIVES, dense], keep_all=True)
    assert run.table["density_ok"].all()
    with pytest.raises(ValueError, match="the objective 'density' was made in Python"):
        evaluate(tmp_path / "run", GIVEN)
    again = evaluate(
        tmp_path / "run", Given(predictors=GIVEN.predictors, objectives=[*OBJECTIVES, dense])
    )
    assert again.reproduced
    assert again.differences["density"] <= 1e-4


# --- Evaluation ----------------------------------------------------------------------------------


def test_evaluate_reproduces_the_results(finished) -> None:
    result = evaluate(finished.folder, GIVEN)
    assert result.reproduced
    assert max(result.differences.values()) <= 1e-6
    assert result.table["success"].all()
    successes = finished.table[finished.table["success"]]
    assert result.table["candidate"].tolist() == successes["candidate"].tolist()
    assert result.table["oxidation_states"].tolist() == successes["oxidation_states"].tolist()


def test_evaluate_sees_changed_files(tmp_path) -> None:
    run = small(tmp_path / "run")
    file = tmp_path / "run" / run.table.loc[run.table["success"], "structure_file"].iloc[0]
    text = file.read_text()
    line = next(x for x in text.splitlines() if x.startswith("_cell_length_a"))
    file.write_text(text.replace(line, "_cell_length_a   9.0"))
    assert not evaluate(tmp_path / "run", GIVEN).reproduced
    file.write_text("nothing")
    with pytest.raises(ValueError, match=f"{file} cannot be read"):
        evaluate(tmp_path / "run", GIVEN)
    file.write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(ValueError, match=f"{file} has 4 sites, results.csv says 5"):
        evaluate(tmp_path / "run", GIVEN)
    file.unlink()
    with pytest.raises(ValueError, match=r"listed in results\.csv but does not exist"):
        evaluate(tmp_path / "run", GIVEN)


def test_evaluate_without_structures(tmp_path) -> None:
    small(tmp_path / "run", objectives=[Minimize("band_gap", below=-1.0)])
    with pytest.raises(ValueError, match="no candidate succeeded"):
        evaluate(tmp_path / "run", GIVEN)


def test_public_names() -> None:
    assert smoacs.design is design
    assert RunFolder("x").path.is_absolute()
