"""The examples of the documentation run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
COMMANDS = re.findall(r"^smoacs .*", "".join(BLOCKS), re.M)


def test_python_example_of_the_readme(tmp_path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "oxidation_states" in done.stdout
    assert (tmp_path / "first.cif").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_examples_of_own_predictors(number: int, tmp_path) -> None:
    """They run, keep the contract, and judge crystals."""
    text = (ROOT / "docs" / "predictors.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.S)[number]
    if number == 1:
        code += "from smoacs.testing import check_predictor; check_predictor(Coordination())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_exist(command: str) -> None:
    """Every option of every printed command is one that ``--help`` knows."""
    words = command.split("#")[0].split()
    name = words[1 : 3 if words[1] == "design" else 2]
    done = subprocess.run(
        [sys.executable, "-m", "smoacs", *name, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for option in re.findall(r"--[a-z-]+", command.split("#")[0]):
        assert option in done.stdout
