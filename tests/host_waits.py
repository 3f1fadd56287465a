"""Counts, on the CPU, what would make the host wait for a GPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Results whose size or value the host needs.
_READS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
}
# Copies between host and device that no operator shows where both are the CPU.
_COPIES = {"tolist", "cpu", "numpy", "tensor", "as_tensor"}
# Kernels wait as their documentation says; Adam counts its steps on the host.
_ASIDE = ("smoacs.ops.", "smoacs.adam")


class HostWaits:
    """Waits inside of a ``with`` block, by the function of smoacs that causes them.

    Attributes
    ----------
    places : Counter of str
        Number of waits by ``module.function``.
    """

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> HostWaits:
        self._stack.enter_context(_Operators(self._note))
        self._stack.enter_context(_Calls(self._note))
        self._stack.enter_context(patch("torch.from_numpy", self._from_numpy))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _from_numpy(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array)  # noted as such

    def _note(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("smoacs."):
                if not module.startswith(_ASIDE):
                    name = module.removeprefix("smoacs.")
                    self.places[f"{name}.{frame.f_code.co_name}"] += 1
                return
            frame = frame.f_back


class _Operators(TorchDispatchMode):
    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in _READS or by_mask or repeats:
            self._note()
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _COPIES:
            self._note()
        return func(*args, **(kwargs or {}))
