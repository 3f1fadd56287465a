"""The folder of a run: which files it holds, written so that none is ever half there."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import torch

from smoacs.config import PrototypeEntry, RunConfig, SavedEntry, read_config
from smoacs.templates import Template
from smoacs.templates.saved import save_templates

logger = logging.getLogger("smoacs")


class RunFolder:
    """Files of one run.

    Parameters
    ----------
    path : str or Path
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.config = self.path / "config.yaml"
        self.templates = self.path / "templates.npz"
        self.results = self.path / "results.csv"
        self.summary = self.path / "summary.json"
        self.structures = self.path / "structures"
        self.history = self.path / "history.npz"
        self.checkpoint = self.path / "checkpoint.pt"
        self.log = self.path / "log.txt"

    @property
    def finished(self) -> bool:
        """Whether the run is done; the summary is written last."""
        return self.summary.is_file()

    def check_free(self, *, force: bool) -> None:
        """Raise unless a new run may be written here.

        Raises
        ------
        ValueError
            If the folder holds a run and ``force`` is not set, or holds anything else.
        PermissionError
            If the folder cannot be written.
        """
        nearest = next(p for p in (self.path, *self.path.parents) if p.exists())
        if not nearest.is_dir():
            raise ValueError(f"{nearest} is a file; choose another folder for the run")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(f"{nearest} is not writable; choose another folder for the run")
        if self.config.is_file():
            if force:
                return
            if self.finished:
                raise ValueError(
                    f"{self.path} holds a finished run; choose another folder, "
                    "or replace it with --force"
                )
            raise ValueError(
                f"{self.path} holds an unfinished run; continue it with "
                f"`smoacs resume {self.path}`, or start over with --force"
            )
        if self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(f"{self.path} is not empty and holds no run; choose another folder")

    def check_run(self) -> None:
        """Raise unless the folder holds a run.

        Raises
        ------
        ValueError
            If there is no config.yaml.
        """
        if not self.config.is_file():
            raise ValueError(f"{self.path} holds no run: there is no {self.config.name}")

    def claim(self, config: RunConfig, templates: Sequence[Template]) -> None:
        """Remove the files of an earlier run, and only those; write the configuration.

        Raises
        ------
        OSError
            If the folder cannot be created.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot create {self.path} ({error.strerror}); choose another folder for the run"
            ) from error
        # Without its summary the folder is unfinished, whatever happens next.
        for old in (self.summary, self.checkpoint, self.results, self.history, self.log):
            old.unlink(missing_ok=True)
        for old in self.structures.glob("[0-9]*_*.cif"):
            old.unlink()
        source = config.template
        if isinstance(source, SavedEntry | PrototypeEntry) and not source.is_library:
            # Files may change before the run is resumed or evaluated.
            with atomic(self.templates) as file:
                save_templates(file, templates)
            saved = SavedEntry(path=Path(self.templates.name))
            config = config.model_copy(update={"template": saved})
        write_text(self.config, config.to_yaml())

    def read_config(self) -> RunConfig:
        """The configuration of the run."""
        return read_config(self.config)

    def write_structures(
        self, texts: Mapping[int, tuple[str, str]], n_candidates: int
    ) -> dict[int, str]:
        """Write CIF texts; give each candidate's path relative to the folder.

        Parameters
        ----------
        texts : mapping of int to (str, str)
            Formula and CIF text by candidate.
        n_candidates : int
            Decides how many digits the numbers have.
        """
        self.structures.mkdir(exist_ok=True)
        digits = max(3, len(str(n_candidates - 1)))
        names = {}
        for candidate, (formula, text) in texts.items():
            file = self.structures / f"{candidate:0{digits}d}_{formula}.cif"
            write_text(file, text)
            names[candidate] = str(file.relative_to(self.path))
        return names

    def write_results(
        self, table: pd.DataFrame, history: Mapping[str, np.ndarray], summary: Mapping[str, Any]
    ) -> None:
        """Write results.csv, history.npz and, last, summary.json."""
        write_text(self.results, table.round(6).to_csv(index=False))
        with atomic(self.history) as file:
            np.savez_compressed(file, allow_pickle=False, **history)
        write_text(self.summary, json.dumps(summary, indent=2) + "\n")

    def read_results(self) -> pd.DataFrame:
        """The table of results.csv.

        Raises
        ------
        ValueError
            If the run is not finished.
        """
        if not self.results.is_file():
            raise ValueError(
                f"{self.path} has no results yet; finish the run with `smoacs resume {self.path}`"
            )
        text_columns = {"formula": str, "oxidation_states": str, "structure_file": str}
        return pd.read_csv(self.results, dtype=text_columns, keep_default_na=True).fillna(
            dict.fromkeys(text_columns, "")
        )

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write tensors, numbers and text."""
        with atomic(self.checkpoint) as file:
            torch.save(dict(state), file)

    def load_checkpoint(self, device: torch.device) -> dict[str, Any] | None:
        """What :meth:`save_checkpoint` wrote, or None before the first one.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        if not self.checkpoint.is_file():
            return None
        try:
            return torch.load(self.checkpoint, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise ValueError(
                f"{self.checkpoint} is damaged; delete it and resume: the run then starts over"
            ) from error

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Append what the logger ``smoacs`` says to the log file."""
        handler = logging.FileHandler(self.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            handler.close()
            logger.setLevel(level)


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces ``path`` when all is written, or leaves it as it was."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as file:
        file.write(text.encode())
