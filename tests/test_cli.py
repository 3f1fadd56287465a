"""The command line as a new user meets it: help, exit codes, one-line errors."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from pymatgen.core import Lattice, Structure

import smoacs.predictors
from analytic import AnalyticPredictor
from smoacs.cli import main

SMALL = ["--predictor", "analytic", "--candidates", "6", "--steps", "9"]
NO_FACTOR = ["--without", "tolerance_factor", "--without", "contact_strain"]
GAP = ["--band-gap", "2.5", "--band-gap-margin", "0.5"]


@pytest.fixture(autouse=True)
def _analytic_by_name(monkeypatch) -> None:
    """``analytic`` as if another package had registered it."""
    point = SimpleNamespace(
        name="analytic", dist=None, value="tests", load=lambda: AnalyticPredictor
    )
    monkeypatch.setattr("smoacs.predictors.plugins.entry_points", lambda group: [point])


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "run"


def design(out: Path, *options: str) -> int:
    return main(["design", "perovskite", *GAP, *SMALL, *NO_FACTOR, "--out", str(out), *options])


def error_of(capsys) -> str:
    """The only line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("smoacs: ")
    return lines[0].removeprefix("smoacs: ")


# --- Help ----------------------------------------------------------------------------------------


def test_help_needs_none_of_the_heavy_packages() -> None:
    heavy = ["torch", "pandas", "pymatgen", "numpy", "pydantic", "rich"]
    code = (
        "import sys; from smoacs.cli import main; code = main(['--help']); "
        f"print([m for m in {heavy} if m in sys.modules]); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    commands = re.findall(r"^  (\w+)  ", result.stdout, flags=re.M)
    assert commands == [
        "design",
        "run",
        "resume",
        "evaluate",
        "predictors",
        "templates",
        "doctor",
        "predict",
        "train",
    ]


@pytest.mark.parametrize("command", [[], ["design"], ["design", "perovskite"], ["run"]])
def test_help_of_commands(command: list[str], capsys) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage:" in text
    assert "..." not in text.split("Commands:")[-1]  # no summary is cut off


def test_no_command_shows_the_help(capsys) -> None:
    assert main([]) == 0
    assert "smoacs design perovskite --band-gap 2.5" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "used"), [(None, "1000"), ("7", "7")])
def test_waiting_threads_spin_briefly(given: str | None, used: str, monkeypatch) -> None:
    if given is None:
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    else:
        monkeypatch.setenv("GOMP_SPINCOUNT", given)
    assert main(["--version"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == used


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"smoacs {smoacs.__version__}\n"


# --- Runs ----------------------------------------------------------------------------------------


def test_design_then_evaluate_and_run_again(out, tmp_path, capsys) -> None:
    assert design(out) == 0
    text = capsys.readouterr()
    assert text.err == ""
    assert re.search(r"\d of 6 candidates succeeded \(\d distinct\)", text.out)
    assert f"Results: {out}" in text.out
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["predictors"] == ["analytic"]
    assert [entry["kind"] for entry in config["objectives"]] == ["window", "minimize"]

    assert main(["evaluate", str(out)]) == 0
    assert re.search(r"band_gap +\d", capsys.readouterr().out)

    table = tmp_path / "second.csv"
    asked = ["evaluate", str(out), "--predictor", "smoacs-alignn-mp", "--out", str(table)]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert re.search(r"band_gap +[01]\.\d\d", text)
    first, second = pd.read_csv(out / "results.csv"), pd.read_csv(table)
    first = first[first["structure_file"].notna()]
    assert f"{len(first)} structures, {second['success'].sum()} succeed" in text
    assert second["structure_file"].tolist() == first["structure_file"].tolist()
    assert (second["band_gap"].to_numpy() != first["band_gap"].to_numpy()).all()
    assert main(["evaluate", str(out), "--predictor", "smoacs-alignn-tc"]) == 2
    assert "no predictor gives 'band_gap'" in capsys.readouterr().err
    assert main([*asked[:-1], str(tmp_path / "none" / "second.csv")]) == 2
    assert f"there is no folder {tmp_path / 'none'}" in capsys.readouterr().err

    again = tmp_path / "again"
    assert main(["run", str(out / "config.yaml"), "--out", str(again)]) == 0
    assert (again / "results.csv").read_bytes() == (out / "results.csv").read_bytes()
    assert main(["run", str(out / "config.yaml")]) == 2
    assert "holds a finished run" in capsys.readouterr().err


def test_standard_criteria(out, capsys) -> None:
    options = ["--predictor", "analytic", "--candidates", "2", "--steps", "1", "--out", str(out)]
    assert main(["design", "perovskite", "--band-gap", "3", *options]) in (0, 3)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["objectives"] == [
        {"kind": "window", "name": "band_gap", "target": 3.0, "margin": 0.2, "slack": None},
        {
            "kind": "minimize",
            "name": "formation_energy",
            "below": -0.5,
            "strength": 1.0,
            "enough": None,
        },
        {"kind": "tolerance_factor", "low": 0.8, "high": 1.0, "strength": 5.0},
        {"kind": "contact_strain", "limit": 0.2, "strength": 5.0},
    ]
    assert config["template"] == {"kind": "perovskite", "supercell": [1, 1, 1]}


def test_other_targets_replace_the_standard_ones(out) -> None:
    targets = ["--window", "formation_energy=-1:0.3", "--maximize", "band_gap=1.5"]
    options = ["--predictor", "analytic", "--candidates", "2", "--steps", "1", "--out", str(out)]
    assert main(["design", "perovskite", *targets, "--preset", "paper", *options]) in (0, 3)
    entries = yaml.safe_load((out / "config.yaml").read_text())["objectives"]
    assert [(e["kind"], e.get("name")) for e in entries] == [
        ("window", "formation_energy"),
        ("maximize", "band_gap"),
        ("tolerance_factor", None),
    ]
    assert entries[1]["above"] == 1.5
    assert entries[2]["strength"] == 1.0
    assert entries[1]["enough"] == float("inf")


def test_prototypes_of_a_folder(tmp_path, out) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    salt = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.to(str(folder / "salt.cif"), fmt="cif")
    salt.to(str(folder / "other.cif"), fmt="cif")
    options = [*GAP, *SMALL, "--out", str(out), "--keep-all"]
    code = main(["design", "prototype", "--from", str(folder), "--only", "salt", *options])
    assert code in (0, 3)
    table = pd.read_csv(out / "results.csv")
    assert table["n_sites"].tolist() == [2] * 6
    assert "tolerance_factor" not in table
    for file in folder.iterdir():
        file.unlink()
    assert main(["evaluate", str(out)]) == 0  # the run keeps its templates


def test_no_success_is_exit_code_3(out, capsys) -> None:
    assert design(out, "--formation-energy-below", "-4.9") == 3
    assert "no candidate succeeded; formation_energy is met least often" in error_of(capsys)
    assert json.loads((out / "summary.json").read_text())["n_success"] == 0


def test_batch_of_one(out) -> None:
    assert design(out, "--candidates", "1", "--keep-all") in (0, 3)
    assert len(pd.read_csv(out / "results.csv")) == 1
    assert len(list((out / "structures").iterdir())) == 1


class Impatient(AnalyticPredictor):
    """Whose user presses Ctrl-C while it predicts for the third time."""

    calls = 0

    def predict(self, crystals, graph):
        Impatient.calls += 1
        if Impatient.calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().predict(crystals, graph)


def test_interrupted_run_is_resumed(out, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(smoacs.predictors, "load", lambda name: Impatient(), raising=False)
    assert design(out) == 130
    assert error_of(capsys) == f"interrupted; continue with `smoacs resume {out}`"
    assert design(out) == 2
    assert f"continue it with `smoacs resume {out}`" in error_of(capsys)
    assert main(["resume", str(out)]) == 0
    assert design(tmp_path / "straight") == 0
    straight = (tmp_path / "straight" / "results.csv").read_bytes()
    assert (out / "results.csv").read_bytes() == straight
    capsys.readouterr()
    assert main(["resume", str(out)]) == 2
    assert "is finished" in error_of(capsys)


def test_changed_files_are_not_reproduced(out, capsys) -> None:
    assert design(out) == 0
    file = next((out / "structures").iterdir())
    file.write_text(re.sub(r"_cell_length_a .*", "_cell_length_a 9.0", file.read_text()))
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 2
    assert error_of(capsys) == "the results are not reproduced within 0.0001"


# --- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--predictor", "analytik"], "no predictor 'analytik' (did you mean analytic?)"),
        (
            ["--band-gap", "25"],
            "band_gap = 25 eV lies outside the range of analytic: 0 to 10",
        ),
        (["--window", "tc=10:1"], "no predictor gives 'tc'; the chosen ones give: band_gap, form"),
        (
            ["--window", "tc=10"],
            "tc=10: not understood; write it like bulk_modulus=120:10",
        ),
        (["--minimize", "formation_energy"], "not understood; write it like formation_energy=-1"),
        (["--elements", "Cs,Pbb,I"], "unknown element 'Pbb': did you mean 'Pb'?"),
        (["--elements", "Cs,I"], "has no charge-neutral choice from I, Cs: B site needs"),
        (["--elements", "Cs", "--exclude", "Cs"], "both allowed and excluded: Cs"),
        (["--candidates", "0"], "candidates: Input should be greater than or equal to 1, got 0"),
        (["--candidates", "many"], "Invalid value for '--candidates'"),
        (["--stepps", "5"], "No such option: --stepps"),
        (["--device", "gpu"], "unknown device 'gpu': choose auto, cpu or cuda"),
        (["--device", "cuda:77"], "there is no device 'cuda:77'"),
        (["--preset", "quick"], "unknown preset 'quick': choose default, paper"),
        (["--start", "zero"], "start: Input should be 'radii' or 'random', got 'zero'"),
        (["--oxidation", "best"], "unknown oxidation table 'best': choose smoacs"),
        (["--supercell", "0", "1", "1"], "supercell"),
        (["--tolerance-factor", "1", "0.8"], "must satisfy 0 < low < high"),
        (["--band-gap-margin", "0"], "the margin of band_gap must be positive"),
        (
            ["--without", "band_gap"],
            "only formation_energy, tolerance_factor, contact_strain can be dropped",
        ),
        (["--predictor", "megnet:nowhere"], "no weights 'nowhere'"),
        (["--reference", "nowhere.jsonl"], "there is no reference"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(out, options, message, capsys) -> None:
    assert main(["design", "perovskite", *GAP, *SMALL, "--out", str(out), *options]) == 2
    assert message in error_of(capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["design", "perovskite", "--band-gap", "2"], "Missing option '--out'. Try: "),
        (["design"], "Missing command. Try: "),
        (["desing"], "No such command 'desing'"),
        (["run", "nowhere.yaml"], "there is no configuration file nowhere.yaml"),
        (["resume", "nowhere"], "nowhere holds no run"),
        (["evaluate", "nowhere"], "nowhere holds no run"),
        (
            ["predict", "nowhere.cif", "--predictor", "analytic"],
            "no structure file nowhere",
        ),
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["templates", "nowhere"], "there are no prototypes at 'nowhere'"),
    ],
)
def test_mistakes_in_commands(arguments, message, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in error_of(capsys)


def test_unreadable_cif(tmp_path, out, capsys) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "broken.cif").write_text("data_nothing\n")
    options = [*GAP, *SMALL, "--out", str(out)]
    assert main(["design", "prototype", "--from", str(folder), *options]) == 2
    assert f"{folder / 'broken.cif'} cannot be read" in error_of(capsys)
    assert main(["predict", str(folder / "broken.cif"), "--predictor", "analytic"]) == 2
    assert "cannot be read" in error_of(capsys)


def test_template_that_cannot_be_neutral(tmp_path, out, capsys) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    alloy = Structure(Lattice.cubic(3.0), ["Na", "K"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    alloy.to(str(folder / "alloy.cif"), fmt="cif")
    options = [*GAP, *SMALL, "--out", str(out)]
    assert main(["design", "prototype", "--from", str(folder), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("smoacs: left out: template alloy (")
    assert lines[1].startswith(f"smoacs: no structure in {folder} has a charge-neutral combination")


def test_existing_and_unwritable_folders(out, tmp_path, capsys, monkeypatch) -> None:
    assert design(out) == 0
    capsys.readouterr()
    assert design(out) == 2
    assert error_of(capsys) == (
        f"{out} holds a finished run; choose another folder, or replace it with --force"
    )
    assert design(out, "--force") == 0
    (tmp_path / "file").touch()
    capsys.readouterr()
    assert design(tmp_path / "file" / "run") == 2
    assert error_of(capsys) == f"{tmp_path / 'file'} is a file; choose another folder for the run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda *_, **__: os.stat(tmp_path / "nowhere"))
        assert design(tmp_path / "new") == 2
    assert error_of(capsys) == (
        f"cannot create {tmp_path / 'new'} (No such file or directory); "
        "choose another folder for the run"
    )
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert design(tmp_path / "locked" / "run") == 2
    assert error_of(capsys) == f"{tmp_path} is not writable; choose another folder for the run"


def test_errors_of_the_program_keep_their_traceback(out, monkeypatch) -> None:
    def broken(name: str) -> None:
        int("no number")  # a ValueError that is no check of ours

    class Broken(AnalyticPredictor):
        def predict(self, crystals, graph):
            raise RuntimeError("a fault")

    monkeypatch.setattr(smoacs.predictors, "load", broken, raising=False)
    with pytest.raises(ValueError, match="invalid literal"):
        design(out)
    monkeypatch.setattr(smoacs.predictors, "load", lambda name: Broken(), raising=False)
    with pytest.raises(RuntimeError, match="a fault"):
        design(out)


# --- What there is -------------------------------------------------------------------------------


def test_predictors_are_listed(capsys) -> None:
    assert main(["predictors"]) == 0
    text = capsys.readouterr().out
    assert "analytic\n  registered by tests\n" in text
    assert "megnet:MEGNet-MP-2018.6.1-Eform  (" in text
    bundled = text[text.index("smoacs-alignn-mp  (ready, 2.2 MB)") :].split("\n\n")[0]
    for part in ("band_gap (eV), test MAE 0.2", "  data: Mater", "  licence: CC", "  weights: "):
        assert part in bundled
    assert "150 official ALIGNN models" in text


@pytest.mark.parametrize("word", [None, "alignn", "BULK"])
def test_lists_of_predictors_fit_a_terminal(word, capsys) -> None:
    assert main(["predictors", *([word] if word else [])]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80
    assert ("alignn:jv_bulk_modulus_kv_alignn" in text) == bool(word)
    assert main(["predictors", "band_gaap"]) == 2
    assert "no predictor and no property has 'band_gaap'" in capsys.readouterr().err


def test_templates_are_listed(tmp_path, capsys) -> None:
    assert main(["templates"]) == 0
    assert "perovskite" in capsys.readouterr().out
    salt = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.to(str(tmp_path / "rock-salt.cif"), fmt="cif")
    assert main(["templates", str(tmp_path)]) == 0
    assert re.search(r"rock-salt +2 +NaCl", capsys.readouterr().out)


def test_doctor(capsys) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for fact in ("torch", "pymatgen", "smact"):
        assert f"  {fact}: {importlib.metadata.version(fact)}" in text
    for fact in ("CUDA kernels: ", "SIMD on this CPU: ", "threads: ", "SMOACS_OFFLINE: not set"):
        assert f"  {fact}" in text


@pytest.mark.parametrize(
    ("built", "reason", "told"),
    [
        (True, "nvcc 13.0.88", "built with nvcc 13.0.88; they need driver 580 or later"),
        (True, "nvcc 12.9.41", "built with nvcc 12.9.41; they need driver 525 or later"),
        (True, "nvcc 99.1", "built with nvcc 99.1"),
        (False, "no CUDA compiler was found", "not built: no CUDA compiler was found"),
    ],
)
def test_doctor_names_the_driver(built: bool, reason: str, told: str, monkeypatch) -> None:
    from smoacs import doctor

    info = doctor.build_info() | {"cuda": built, "cuda_reason": reason}
    monkeypatch.setattr(doctor, "build_info", lambda: info)
    assert doctor.diagnose()["native module"]["CUDA kernels"] == told


def test_doctor_checks_weights(tmp_path, monkeypatch) -> None:
    import torch

    from smoacs import doctor
    from smoacs.predictors.base import GraphSpec
    from smoacs.predictors.weights import PropertyCard, save_bundle

    card = save_bundle(
        tmp_path,
        torch.nn.Linear(2, 2),
        name="model",
        architecture={},
        graph=GraphSpec(cutoff=5.0),
        properties=(PropertyCard(name="band_gap", unit="eV", low=0, high=9),),
        elements=("Cs",),
        training={},
    )
    monkeypatch.setattr(doctor, "bundled", lambda: {"model": card})
    assert doctor.diagnose()["bundled weights"]["model"].startswith("whole: SHA-256 ")
    card.with_suffix(".safetensors").write_bytes(b"half")
    assert doctor.diagnose()["bundled weights"]["model"].startswith("damaged: SHA-256 ")
    card.with_suffix(".safetensors").unlink()
    assert doctor.diagnose()["bundled weights"]["model"].startswith("missing: ")


def test_predict_table(tmp_path, capsys) -> None:
    salt = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.to(str(tmp_path / "salt.cif"), fmt="cif")
    salt.to(str(tmp_path / "POSCAR"), fmt="poscar")
    files = [str(tmp_path / "salt.cif"), str(tmp_path / "POSCAR")]
    assert main(["predict", *files, "--predictor", "analytic"]) == 0
    shown = capsys.readouterr().out
    table = tmp_path / "out.csv"
    assert main(["predict", *files, "--predictor", "analytic", "--out", str(table)]) == 0
    assert table.read_text() == shown
    read = pd.read_csv(table)
    assert read.columns.tolist() == ["file", "name", "formula", "band_gap", "formation_energy"]
    assert read["file"].tolist() == files
    assert read["band_gap"][0] == pytest.approx(read["band_gap"][1], abs=1e-6)
