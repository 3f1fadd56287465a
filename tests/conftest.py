"""Shared fixtures: the reference data of the project, where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(os.environ.get("SMOACS_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need the reference data or a GPU where there is none."""
    import torch

    no_data = pytest.mark.skip(reason=f"no reference data at {_SHARED}; set SMOACS_SHARED")
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("external") and not _SHARED.is_dir():
            item.add_marker(no_data)
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference data, weights and numbers of the original codes."""
    return _SHARED
