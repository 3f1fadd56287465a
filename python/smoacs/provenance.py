"""Where and with what a run was made."""

from __future__ import annotations

import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

import smoacs
from smoacs.job import Job
from smoacs.predictors.base import Predictor
from smoacs.predictors.weights import fingerprint

_PACKAGES = ("torch", "numpy", "pymatgen", "smact", "ase", "spglib")


def circumstances(job: Job) -> dict[str, Any]:
    """Where and with what a run was made."""
    device = job.space.device
    on_gpu = device.type == "cuda"
    gpu_bytes = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    return {
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "peak_gpu_memory_mb": round(gpu_bytes / 2**20, 1) if on_gpu else None,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "seed": job.config.seed,
        "preset": job.preset.name,
        "versions": package_versions(),
        "predictors": [
            {
                "name": predictor.name,
                "properties": {p.name: p.unit for p in predictor.properties},
                "weights_sha256": _weights_hash(predictor),
            }
            for predictor in job.judge.predictors
        ],
    }


def package_versions() -> dict[str, str]:
    """Versions of smoacs, Python and the packages that decide results."""
    found = {"smoacs": smoacs.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # e.g. a conda build without metadata
            continue
    return found


def _weights_hash(predictor: Predictor) -> str | None:
    """SHA-256 over the weights; None for predictors that are no torch network."""
    network = getattr(predictor, "network", predictor)
    return fingerprint(network.state_dict()) if isinstance(network, nn.Module) else None
