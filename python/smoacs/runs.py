"""Design runs: from a request to results, in memory or in a folder that can be resumed."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

import smoacs
from smoacs.cif import write_cif
from smoacs.comparison import share_of_novel
from smoacs.config import (
    DEFAULT_PREDICTORS,
    CustomEntry,
    RunConfig,
    make_config,
    objective_entry,
    preset_entry,
    template_entry,
)
from smoacs.crystals import CrystalBatch
from smoacs.evaluation import as_written, evaluate_structures, summarise
from smoacs.history import History
from smoacs.job import NOTHING_GIVEN, Given, Job
from smoacs.objectives import Objective
from smoacs.ops import kept_memory
from smoacs.optimizer import Optimizer, StepReport
from smoacs.predictors.base import Predictor
from smoacs.provenance import circumstances
from smoacs.run_folder import RunFolder
from smoacs.schedules import Preset
from smoacs.templates import Template

if TYPE_CHECKING:
    from pymatgen.core import Structure

logger = logging.getLogger("smoacs")

CHECKPOINT_SECONDS = 60.0
OnStep = Callable[[StepReport, Optimizer], None]


class Interrupted(KeyboardInterrupt):
    """A run in a folder was stopped by Ctrl-C; the message says how to resume it."""


@dataclass(frozen=True)
class Run:
    """Results of a design.

    Attributes
    ----------
    table : DataFrame
        One row per candidate, the columns of results.csv.
    structures : list of Structure
        The successes, as their files hold them, in the order of the table.
    summary : dict
        The content of summary.json.
    history : dict of str to ndarray
        Per step: ``step``, ``temperature`` (nan: discrete), ``n_success`` (T,), ``loss`` (T, C),
        ``values`` (T, C, n); and the n names in ``objectives``.
    folder : Path or None
        Where the files are.
    """

    table: pd.DataFrame
    structures: list[Structure]
    summary: dict[str, Any]
    history: dict[str, np.ndarray]
    folder: Path | None


def design(
    template: Template | Sequence[Template],
    objectives: Sequence[Objective],
    *,
    predictors: str | Predictor | Sequence[str | Predictor] = DEFAULT_PREDICTORS,
    candidates: int = 256,
    steps: int = 200,
    seed: int = 0,
    preset: str | Preset = "default",
    start: str | None = None,
    masking: str | None = None,
    oxidation: str = "smoacs",
    elements: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    device: str = "auto",
    sites_per_batch: int | None = None,
    reference: str | Path | None = None,
    out: str | Path | None = None,
    keep_all: bool = False,
    force: bool = False,
    on_step: OnStep | None = None,
) -> Run:
    """Design crystals that meet all objectives at once.

    Parameters
    ----------
    template : Template or sequence of Template
        Candidate i follows template i modulo their number.
    objectives : sequence of Objective
    predictors : str, Predictor, or sequence of both
        Both bundled families unless given. Each predictor of a property must find its target met;
        ``"NAME[PROPERTY]"`` asks a model for this property only. All properties are reported, those
        of a further predictor as ``PROPERTY@NAME``. Only elements that all of them know are used.
    candidates, steps, seed : int
        Number of candidates, length of the run, and what makes it repeatable: the same seed gives
        the same result.
    preset : str or Preset
        ``"default"`` or ``"paper"``.
    start : {"radii", "random"}, optional
        Lattices of new candidates; the preset's own unless given.
    masking : {"exact", "paper"}, optional
        Form of the masked softmax; the preset's own unless given.
    oxidation : str
        Oxidation table for the check of neutrality, see :func:`smoacs.chemistry.oxidation_table`.
    elements, exclude : str or sequence of str, optional
        Symbols that may, or must not, be used: ``"Cs,Sn,I"`` or a list.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    sites_per_batch : int, optional
        Sites evaluated together; changes memory and speed, not results.
    reference : path, optional
        Known structures (folder, or file such as .jsonl.xz) for the share of novel successes.
    out : path, optional
        Folder for all files; nothing is written without it.
    keep_all : bool
        Write the structures of all candidates, not of the successes only.
    force : bool
        Replace an earlier run in ``out``.
    on_step : callable, optional
        ``on_step(report, optimizer)`` after every step.

    Raises
    ------
    ValueError, FileNotFoundError, PermissionError
        If something asked for is wrong or missing; one line.
    Interrupted
        On Ctrl-C, with ``out``: the step is finished and saved, :func:`resume` continues.

    Examples
    --------
    >>> run = design(templates.perovskite(), [Window("band_gap", 2.5, 0.2)])  # doctest: +SKIP
    """
    templates = [template] if isinstance(template, Template) else list(template)
    if not templates:
        raise ValueError("a design needs at least one template, got none")
    if isinstance(predictors, str) or not isinstance(predictors, Sequence):
        predictors = [predictors]
    config = make_config(
        template=template_entry(templates, oxidation),
        objectives=[objective_entry(objective) for objective in objectives],
        predictors=[p if isinstance(p, str) else CustomEntry(name=p.name) for p in predictors],
        candidates=candidates,
        steps=steps,
        seed=seed,
        preset=preset_entry(preset),
        start=start,
        masking=masking,
        oxidation=oxidation,
        elements=elements,
        exclude=exclude,
        device=device,
        sites_per_batch=sites_per_batch,
        keep_all=keep_all,
        reference=reference,
        out=out,
    )
    given = Given(
        templates=templates,
        objectives=objectives,
        predictors=predictors,
        preset=None if isinstance(preset, str) else preset,
    )
    return run_config(config, given, force=force, on_step=on_step)


def run_config(
    config: RunConfig,
    given: Given = NOTHING_GIVEN,
    *,
    force: bool = False,
    on_step: OnStep | None = None,
) -> Run:
    """Run a configuration from the start; see :func:`design`.

    Parameters
    ----------
    config : RunConfig
        From :func:`smoacs.config.read_config` or :func:`smoacs.config.make_config`.
    given : Given
        Objects made in Python.
    force, on_step
        As for :func:`design`.
    """
    if config.out is None:
        return _execute(Job.create(config, given), None, on_step)
    folder = RunFolder(config.out)
    folder.check_free(force=force)
    job = Job.create(config, given)
    folder.claim(config, job.templates)
    return _execute(job, folder, on_step)


def resume(path: str | Path, given: Given = NOTHING_GIVEN, *, on_step: OnStep | None = None) -> Run:
    """Continue an interrupted run to the result that it would have had.

    Parameters
    ----------
    path : str or Path
        Folder of the run.
    given : Given
        Objects made in Python; needed where config.yaml says ``custom``.
    on_step
        As for :func:`design`.

    Raises
    ------
    ValueError, FileNotFoundError
        If there is no run, it is finished, or something that it needs is missing.
    """
    folder = RunFolder(path)
    folder.check_run()
    if folder.finished:
        raise ValueError(f"{folder.path} is finished; its results are in {folder.results.name}")
    return _execute(Job.create(folder.read_config(), given), folder, on_step)


def _execute(job: Job, folder: RunFolder | None, on_step: OnStep | None) -> Run:
    """Optimise from the last checkpoint, if any, then judge and write."""
    if folder is None:
        return _run(job, None, on_step)
    with folder.logging():
        try:
            return _run(job, folder, on_step)
        except KeyboardInterrupt as interrupt:
            logger.info("interrupted")
            raise Interrupted(
                f"interrupted; continue with `smoacs resume {folder.path}`"
            ) from interrupt
        except Exception:
            logger.exception("stopped by an error")
            raise


def _run(job: Job, folder: RunFolder | None, on_step: OnStep | None) -> Run:
    started = time.monotonic()
    optimizer, history, elapsed = job.optimizer(), History(), 0.0
    state = folder.load_checkpoint(job.space.device) if folder else None
    if state:
        optimizer.load_state_dict(state["optimizer"])
        history, elapsed = History(state["history"]), state["elapsed"]
    logger.info(
        "smoacs %s on %s: step %d of %d, %d candidates, templates: %s",
        smoacs.__version__,
        job.space.device,
        optimizer.step_count,
        optimizer.steps,
        len(job.space),
        ", ".join(template.name for template in job.space.templates),
    )

    def save() -> None:
        if folder:
            now = elapsed + time.monotonic() - started
            parts = {"optimizer": optimizer.state_dict(), "history": history.state()}
            folder.save_checkpoint({**parts, "elapsed": now})
            logger.info("step %d: %d succeed", optimizer.step_count, int(optimizer.success.sum()))

    saved = time.monotonic()
    with kept_memory(), _stop_after_step(enabled=folder is not None) as stop:
        while optimizer.step_count < optimizer.steps:
            report = optimizer.step()
            history.append(report)
            if on_step:
                on_step(report, optimizer)
            if stop():
                save()
                raise KeyboardInterrupt
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()
    save()
    step_time = (elapsed + time.monotonic() - started) / optimizer.steps
    never = torch.isinf(optimizer.best_loss)  # a later round may have saved a failed candidate
    failed = {c: why for c, why in optimizer.failure.items() if never[c]}
    for candidate, reason in sorted(failed.items()):
        logger.info("candidate %d failed: %s", candidate, reason)

    judge = replace(job.judge, sites_per_batch=optimizer.sites_per_batch)
    crystals, _ = optimizer.result()
    structures = as_written(crystals)
    table = evaluate_structures(structures, range(len(structures)), job.space, judge)
    kept = np.flatnonzero(table["success"] | job.config.keep_all).tolist()
    table["structure_file"] = ""
    if folder:
        names = folder.write_structures(_cif_texts(crystals, kept), len(structures))
        table.loc[kept, "structure_file"] = [names[i] for i in kept]
    successes = [structures[i] for i in np.flatnonzero(table["success"])]
    summary = {
        **summarise(table, judge),
        "novel_rate": (
            share_of_novel(successes, job.config.reference) if job.config.reference else None
        ),
        "failures": pd.Series(failed, dtype=str).value_counts().to_dict(),
        "steps": optimizer.steps,
        "wall_time_s": round(elapsed + time.monotonic() - started, 3),
        "seconds_per_step": round(step_time, 4),
        **circumstances(job),
    }
    arrays = history.arrays(judge.objectives)
    if folder:
        folder.write_results(table, arrays, summary)
        logger.info("finished: %d of %d succeed", len(successes), len(table))
    return Run(table, successes, summary, arrays, folder.path if folder else None)


def _cif_texts(crystals: CrystalBatch, chosen: list[int]) -> dict[int, tuple[str, str]]:
    """File name part and CIF text of some candidates."""
    if not chosen:
        return {}
    structures = crystals.select(chosen).to_structures()
    return {
        candidate: (_file_formula(structure), write_cif(structure))
        for candidate, structure in zip(chosen, structures, strict=True)
    }


def _file_formula(structure: Structure) -> str:
    """Reduced formula without parentheses, short enough for any file system."""
    formula = str(structure.composition.reduced_formula)
    if "(" in formula:
        amounts = structure.composition.reduced_composition.items()
        formula = "".join(f"{element}{int(n)}" if n > 1 else str(element) for element, n in amounts)
    return formula[:100]


@contextmanager
def _stop_after_step(*, enabled: bool) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; a second one interrupts at once."""
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = threading.Event()

    def handle(signum: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
