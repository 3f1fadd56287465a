"""What is installed, what was built, and whether the bundled weights are whole."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from smoacs.ops._native import build_info
from smoacs.predictors.weights import bundled, cache_dir, read_card, sha256
from smoacs.provenance import package_versions

Facts = dict[str, str]

# Oldest Linux driver for programs built with a CUDA of this generation; NVIDIA, "CUDA
# Compatibility", section on minor versions.
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


def diagnose() -> dict[str, Facts]:
    """Facts by topic, all as text."""
    return {
        "versions": package_versions(),
        "native module": _native(),
        "devices": _devices(),
        "bundled weights": _weights(),
        "weights from elsewhere": {
            "cache": str(cache_dir()),
            "SMOACS_OFFLINE": "set" if os.environ.get("SMOACS_OFFLINE", "0") != "0" else "not set",
        },
    }


def _native() -> Facts:
    info = build_info()
    return {
        "compiler": str(info["compiler"]),
        "SIMD on this CPU": ", ".join(info["simd"]),
        "OpenMP": str(info["openmp"]),
        "CUDA kernels": _kernels(built=info["cuda"], reason=info["cuda_reason"]),
    }


def _kernels(*, built: bool, reason: str) -> str:
    """Whether the CUDA kernels were built, and the driver that they need."""
    if not built:
        return f"not built: {reason}"
    generation = re.fullmatch(r"nvcc (\d+)\..*", reason)
    driver = _OLDEST_DRIVER.get(int(generation[1])) if generation else None
    return f"built with {reason}" + (f"; they need driver {driver} or later" if driver else "")


def _devices() -> Facts:
    facts = {
        "cpu": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
    }
    if torch.version.cuda is None:
        return {**facts, "cuda": "none: this torch was built for the CPU only"}
    if not torch.cuda.is_available():
        return {**facts, "cuda": "none: torch finds no GPU or no driver"}
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        facts[f"cuda:{number}"] = f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
    return facts


def _weights() -> Facts:
    return {name: _state_of(path) for name, path in bundled().items()} or {"none": "not installed"}


def _state_of(card_path: Path) -> str:
    file = card_path.with_suffix(".safetensors")
    if not file.is_file():
        return f"missing: {file}"
    found, expected = sha256(file), read_card(card_path).sha256
    if found != expected:
        return f"damaged: SHA-256 is {found}, expected {expected}; install smoacs again"
    return f"whole: SHA-256 {found}"
