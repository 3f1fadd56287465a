"""What the machine is, and how fast it copies and multiplies: the ceilings of every benchmark."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from race import Function, Place, Race, run
from smoacs.predictors.layers import linear

_COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 33}  # read and written together, far beyond all caches
_CLEAR_REFS = Path("/proc/self/clear_refs")
_MATRIX = {"cpu": 2048, "cuda": 8192}

Shape = tuple[int, int, int]


def copy(n_bytes: int, device: str) -> Function:
    """A function that moves this many bytes: half of them read, half of them written."""
    source = torch.ones(max(n_bytes // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def products(
    shapes: Sequence[Shape],
    device: str,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = linear,
) -> Function:
    """A function that multiplies matrices (m, k) by (k, n) in single precision, for all (m, k, n).

    Operands of one shape are shared, as a network's buffers would be reused. ``product`` takes the
    second matrix transposed; ours are the fastest on a CPU.
    """
    generator = torch.Generator(device).manual_seed(0)
    operands = {
        (m, k, n): (
            torch.randn(m, k, generator=generator, device=device),
            torch.randn(n, k, generator=generator, device=device),
        )
        for m, k, n in set(shapes)
    }
    queue = [operands[shape] for shape in shapes]

    def multiply() -> None:
        for a, b in queue:
            product(a, b)

    return multiply


def peak_memory(function: Function, device: str) -> int:
    """Most bytes that a function holds at a time beyond what was there.

    Raises
    ------
    OSError
        If this system does not tell a process's peak memory (Linux does).
    """
    function()  # what is allocated once does not count
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR_REFS.write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines)
    return int(facts[key].split()[0]) * 1024


def ceilings(place: Place, budget: float) -> dict[str, float]:
    """Measured rates: bytes copied (read and written) and float32 operations per second."""
    size = _MATRIX[place.device]
    contenders = {
        "copy": copy(_COPY_BYTES[place.device], place.device),
        "product": products([(size, size, size)], place.device),
    }
    with place.entered():
        seconds = run(Race(contenders, place, budget))
    return {
        "copy_bytes_per_s": _COPY_BYTES[place.device] / seconds["copy"],
        "product_flop_per_s": 2 * size**3 / seconds["product"],
    }


def describe() -> dict[str, object]:
    """Processor, cores, memory, GPU and system."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found: dict[str, object] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30),
        "system": platform.system() + " " + platform.machine(),
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found["gpu"] = gpu.name
        found["gpu_memory_gib"] = round(gpu.total_memory / 2**30)
        found["gpu_multiprocessors"] = gpu.multi_processor_count
    return found


def processor() -> str:
    """Name of the CPU with family and model, since virtual machines often shorten the name."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    if "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']}, model {facts['model']})"
