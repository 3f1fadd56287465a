"""The only module that imports the compiled kernels; helpers to call them with tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    from smoacs import _native as _module
except ImportError as error:  # pragma: no cover - a broken installation
    raise ImportError(
        "the compiled part of smoacs is missing; install the package with `pip install .`, or run "
        f"`make native` in a source tree ({error})"
    ) from error


def build_info() -> dict[str, Any]:
    """How the kernels were built, and what this CPU offers them."""
    return _module.build_info()


def kernels() -> Any:
    """The compiled module, set to use as many threads as torch does."""
    _module.set_num_threads(torch.get_num_threads())
    return _module


def stream_of(tensor: Tensor) -> AbstractContextManager[int | None]:
    """CUDA stream for kernels on the tensor's device, made current; None on the CPU.

    Raises
    ------
    TypeError
        If the tensor is on neither the CPU nor a CUDA device.
    """
    if tensor.is_cpu:
        return _NO_STREAM
    if tensor.is_cuda:
        return _current_stream(tensor.device)
    raise TypeError(f"kernels run on cpu and cuda, got a tensor on {tensor.device}")


_NO_STREAM = nullcontext()


@contextmanager
def _current_stream(device: torch.device) -> Iterator[int]:
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


def launch(kernel: str, tensor: Tensor, /, *inputs: Any, **arguments: Any) -> None:
    """Call a kernel for the dtype, the device and the stream of a tensor.

    Parameters
    ----------
    kernel : str
        Its name in the compiled module.
    tensor : Tensor
        Decides on dtype and device.
    *inputs, **arguments
        Passed on, tensors by their addresses.

    Raises
    ------
    TypeError
        If the tensor is on neither the CPU nor a CUDA device.
    """
    with stream_of(tensor) as stream:
        getattr(kernels(), kernel)(
            *[value.data_ptr() if isinstance(value, Tensor) else value for value in inputs],
            **addresses(**arguments),
            dtype=dtype_name(tensor),
            stream=stream,
        )


def addresses(**arguments: Any) -> dict[str, Any]:
    """Arguments for the compiled module: tensors by their addresses, all else as it is.

    The caller keeps the tensors until the kernel returns.
    """
    return {
        name: value.data_ptr() if isinstance(value, Tensor) else value
        for name, value in arguments.items()
    }


def empty_like(tensor: Tensor) -> Tensor:
    """A contiguous tensor of the same shape; it takes less time than ``new_empty``."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def dtype_name(tensor: Tensor) -> str:
    """Name of the tensor's dtype as the kernels know it, e.g. ``"float32"``."""
    return _name(tensor.dtype)


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_tensor(
    name: str,
    tensor: Tensor,
    shape: tuple[int | None, ...],
    dtypes: torch.dtype | tuple[torch.dtype, ...],
    device: torch.device,
) -> None:
    """Raise unless a tensor has this shape (None: any size), one of these dtypes and this device.

    Raises
    ------
    TypeError
        If it is not a tensor, or of another dtype.
    ValueError
        If its shape or device differs.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    allowed = dtypes if isinstance(dtypes, tuple) else (dtypes,)
    if tensor.dtype not in allowed:
        names = " or ".join(_name(dtype) for dtype in allowed)
        raise TypeError(f"{name} must be {names}, got {dtype_name(tensor)}")
    fits = len(shape) == tensor.dim()
    for want, have in zip(shape, tensor.shape, strict=False):  # a generator takes thrice as long
        fits = fits and (want is None or want == have)
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got {tuple(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, but the other tensors are on {device}")
