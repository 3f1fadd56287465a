"""What a run works with, made from its configuration and from objects given in Python."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from smoacs import predictors as registry
from smoacs.agreement import with_opinions
from smoacs.chemistry import oxidation_table, select_elements
from smoacs.config import (
    RunConfig,
    adapt_preset,
    make_objectives,
    make_preset,
    make_templates,
    predictor_names,
)
from smoacs.evaluation import Judge
from smoacs.objectives import Objective, ToleranceFactor
from smoacs.optimizer import SITES_PER_BATCH, Optimizer, choose_predictors
from smoacs.predictors.base import Predictor
from smoacs.predictors.selected import distinct_properties
from smoacs.schedules import Preset
from smoacs.templates import DesignSpace, Template

logger = logging.getLogger("smoacs")

_TAKEN = {"candidate", "success", "formula", "n_sites", "template", "neutral", "geometry", "unique"}


@dataclass(frozen=True)
class Given:
    """Objects made in Python, in place of what the configuration says; None: follow it."""

    templates: Sequence[Template] | None = None
    objectives: Sequence[Objective] | None = None
    predictors: Sequence[str | Predictor] | None = None
    preset: Preset | None = None


NOTHING_GIVEN = Given()


@dataclass(frozen=True)
class Job:
    """A checked run, ready to start.

    Attributes
    ----------
    config : RunConfig
    templates : list of Template
        As made, before elements were left out.
    space : DesignSpace
    judge : Judge
    preset : Preset
    """

    config: RunConfig
    templates: list[Template]
    space: DesignSpace
    judge: Judge
    preset: Preset

    @classmethod
    def create(cls, config: RunConfig, given: Given) -> Job:
        """Load and check everything.

        Raises
        ------
        ValueError, FileNotFoundError
            If anything is wrong or missing; one line.
        """
        if config.reference is not None and not config.reference.exists():
            raise ValueError(f"there is no reference {config.reference}")
        device = choose_device(config.device)
        oxidation = oxidation_table(config.oxidation)
        preset = adapt_preset(given.preset or make_preset(config), config)
        elements = select_elements(config.elements, config.exclude)
        objectives = list(given.objectives or make_objectives(config))
        templates = list(given.templates or make_templates(config))
        predictors = load_predictors(given.predictors or predictor_names(config), device)
        objectives = with_opinions(objectives, predictors)
        _check_objectives(objectives, predictors, templates)
        known = frozenset.intersection(*(frozenset(p.elements) for p in predictors))
        space = DesignSpace.create(
            _restrict(templates, elements & known), config.candidates, device=device
        )
        judge = Judge(objectives, predictors, oxidation, config.sites_per_batch or SITES_PER_BATCH)
        return cls(config, templates, space, judge, preset)

    def optimizer(self) -> Optimizer:
        """The loop, at its start."""
        return Optimizer(
            self.space,
            self.judge.objectives,
            self.judge.predictors,
            self.preset,
            self.config.steps,
            self.config.seed,
            self.judge.sites_per_batch,
        )


def load_predictors(predictors: Sequence[str | Predictor], device: torch.device) -> list[Predictor]:
    """Predictors with distinct properties, some by name, on a device.

    Raises
    ------
    ValueError, FileNotFoundError
        If a name is unknown, a model is named twice, or weights are missing.
    """
    loaded = [registry.load(p) if isinstance(p, str) else p for p in predictors]
    return distinct_properties([predictor.to(str(device)) for predictor in loaded])


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the GPU where there is one.

    Raises
    ------
    ValueError
        If the name is no device or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: choose auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not supported: choose auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"there is no device {name!r}: choose auto or cpu; `smoacs doctor` tells why"
        )
    return device


def _check_objectives(
    objectives: Sequence[Objective], predictors: Sequence[Predictor], templates: Sequence[Template]
) -> None:
    choose_predictors(predictors, objectives)
    predicted = {p.name for predictor in predictors for p in predictor.properties}
    names = [objective.name for objective in objectives]
    for objective in objectives:
        name = objective.name
        if names.count(name) > 1:
            raise ValueError(f"two objectives are named {name!r}; name each target once")
        if name in _TAKEN or (name in predicted and name not in objective.properties):
            raise ValueError(f"an objective cannot be named {name!r}: the results use that name")
        if isinstance(objective, ToleranceFactor):
            other = next((t for t in templates if not {"A", "B", "X"} <= set(t.roles)), None)
            if other is not None:
                raise ValueError(
                    "a tolerance factor needs A, B and X sites, which template "
                    f"{other.name} lacks; drop this objective or use the perovskite template"
                )


def _restrict(templates: Iterable[Template], elements: Iterable[int]) -> list[Template]:
    """Templates with these elements only; those that have no neutral choice are left out."""
    numbers = frozenset(elements)
    if not numbers:
        raise ValueError("the predictors know none of the allowed elements")
    remaining, problems = [], []
    for template in templates:
        try:
            remaining.append(template.restrict(numbers))
        except ValueError as error:
            problems.append(str(error))
            logger.info("left out: %s", error)
    if not remaining:
        more = f" (and {len(problems) - 1} more templates)" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more)
    return remaining
