"""Tensors of a Lightning checkpoint, without running what is pickled beside them."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from smoacs.predictors.weights import first_line


class _Inert:
    """Stands for any object that is no tensor; takes everything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return self

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None:
        """Take an element of a pickled list."""

    def extend(self, _: Any) -> None:
        """Take elements of a pickled list."""

    def add(self, _: Any) -> None:
        """Take an element of a pickled set."""


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class _TensorUnpickler(pickle.Unpickler):
    """Unpickler that knows tensors; no other name in the file is ever looked up."""

    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get((module, name), _Inert)


def load_lightning(path: Path) -> dict[str, Tensor]:
    """State dict of a checkpoint that PyTorch Lightning wrote.

    Lightning pickles its settings, objects of any class, beside the state dict. They are skipped:
    no class is imported and no code of the file runs. (``weights_only=True`` refuses such files,
    even where harmless classes are named for all that it does not know.)

    Raises
    ------
    ValueError
        If the file is damaged or holds no state dict.
    """
    # torch.load reads tensors through whatever unpickler it is given.
    tensors_only: Any = SimpleNamespace(
        Unpickler=_TensorUnpickler, UnpicklingError=pickle.UnpicklingError, __name__=__name__
    )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no complete checkpoint: it is no zip archive as torch writes")
    try:
        content = torch.load(
            path, map_location="cpu", pickle_module=tensors_only, weights_only=False
        )
    except Exception as error:  # damage shows in many ways
        raise ValueError(f"{path} is no complete checkpoint: {first_line(error)}") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(k, str) for k in state):
        raise ValueError(f"{path} holds no state_dict, so it is no checkpoint of Lightning")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}
