"""A package of somebody else, installed from a folder, is found and designs crystals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "foreign-predictors"
version = "1.2"

[project.entry-points."smoacs.predictors"]
foreign = "foreign_predictors:Foreign"
"""

# A build system that needs none: the wheel is the module, its name and its entry points.
BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "foreign_predictors-1.2-py3-none-any.whl"
    info = "foreign_predictors-1.2.dist-info"
    points = "[smoacs.predictors]\\nforeign = foreign_predictors:Foreign\\n"
    files = {
        "foreign_predictors.py": open("foreign_predictors.py").read(),
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: foreign-predictors\\nVersion: 1.2\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{info}/entry_points.txt": points,
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""

MODULE = """
import torch
from smoacs.predictors import ModulePredictor, Property
from smoacs.testing import check_predictor

class Density(torch.nn.Module):
    def forward(self, positions, cell, composition):
        volume = torch.linalg.det(cell).abs() / len(positions)
        light = composition[:, :20].sum() / len(positions)
        return torch.stack([light, 20 / volume])

class Foreign(ModulePredictor):
    def __init__(self):
        properties = [Property("lightness", "", 0, 1), Property("crowding", "", 0, 9)]
        super().__init__("foreign", Density(), properties, range(1, 84))

if __name__ == "__main__":
    check_predictor(Foreign())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the installed package."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in (
        ("pyproject.toml", PROJECT),
        ("backend.py", BACKEND),
        ("foreign_predictors.py", MODULE),
    ):
        (source / name).write_text(textwrap.dedent(text))
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    install = [sys.executable, "-m", "pip", "install", "--quiet", *options, str(source)]
    subprocess.run(install, check=True, capture_output=True)
    return target


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_listed(site: Path) -> None:
    listed = run(site, "smoacs", "predictors", "foreign")
    assert "foreign\n  registered by foreign-predictors 1.2\n" in listed.stdout
    assert run(site, "foreign_predictors").returncode == 0


def test_it_designs_crystals(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    targets = ["--maximize", "lightness=0.5", "--minimize", "crowding=2"]
    size = ["--candidates", "4", "--steps", "40", "--out", str(out)]
    options = ["--predictor", "foreign", "--without", "formation_energy", *targets, *size]
    done = run(site, "smoacs", "design", "perovskite", *options)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out / "results.csv")
    assert table["success"].any()
    assert (table.loc[table["success"], "lightness"] > 0.5).all()
    summary = json.loads((out / "summary.json").read_text())
    [predictor] = summary["predictors"]
    assert predictor["name"] == "foreign"
    assert predictor["properties"] == {"lightness": "", "crowding": ""}
