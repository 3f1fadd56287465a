"""Read YAML files into checked models; every mistake is one line that names the entry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """A part of a configuration file; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=Section)


def read_yaml(path: str | Path, model: type[Model]) -> Model:
    """Read a configuration file.

    Raises
    ------
    ValueError
        If the file does not exist, is not YAML, or has an unknown, missing or bad entry; the
        message is one line that names the entries.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no configuration file {path}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must hold a mapping with keys such as {_examples(model)}")
    try:
        return checked(model, raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def checked(model: type[Model], entries: Mapping[Any, Any]) -> Model:
    """A model of some entries.

    Raises
    ------
    ValueError
        If an entry is unknown, missing or bad; one line.
    """
    try:
        return model.model_validate(dict(entries))
    except ValidationError as error:
        raise ValueError("; ".join(_problem(item) for item in error.errors())) from error


def _problem(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "unknown key"
    elif item["type"] != "missing" and not isinstance(item["input"], dict | list):
        message = f"{message}, got {item['input']!r}"
    return f"{place}: {message}" if place else message


def _examples(model: type[Section]) -> str:
    return ", ".join(list(model.model_fields)[:4])
