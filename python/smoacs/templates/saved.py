"""Templates in a file, so that runs with templates made in Python can be repeated."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from smoacs.templates.base import Template

_FIELDS = tuple(field.name for field in fields(Template))


def save_templates(file: BinaryIO, templates: Sequence[Template]) -> None:
    """Write templates to a binary file (npz)."""
    np.savez_compressed(
        file,
        allow_pickle=False,
        **{
            f"{number}.{name}": np.asarray(getattr(template, name))
            for number, template in enumerate(templates)
            for name in _FIELDS
        },
    )


def load_templates(path: str | Path) -> list[Template]:
    """Read templates that :func:`save_templates` wrote.

    Raises
    ------
    ValueError
        If the file does not exist or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no template file {path}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            count = len(arrays.files) // len(_FIELDS)
            members = [{n: arrays[f"{i}.{n}"] for n in _FIELDS} for i in range(count)]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a template file that smoacs wrote") from error
    for member in members:
        member["name"] = str(member["name"])
        member["roles"] = tuple(str(role) for role in member["roles"])
    return [Template(**member) for member in members]


def same_template(a: Template, b: Template) -> bool:
    """Whether all fields of two templates are equal."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in _FIELDS)
