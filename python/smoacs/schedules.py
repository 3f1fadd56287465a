"""How temperature and learning rates change over a run, and the two presets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from smoacs.mutation import Mutation
from smoacs.start import LatticeStart, radii_lengths, random_lengths


@dataclass(frozen=True)
class Temperature:
    """Softmax temperature over the progress 0..1 of a round.

    Attributes
    ----------
    start, stop : float
        First and last temperature.
    geometric : bool
        Whether equal steps multiply the temperature by equal factors (else: linear).
    discrete_from : float
        Progress from which on every site holds its most probable element only.
    """

    start: float
    stop: float
    geometric: bool
    discrete_from: float

    def at(self, progress: float) -> float | None:
        """Temperature at some progress; None: discrete."""
        if progress >= self.discrete_from:
            return None
        done = progress / min(self.discrete_from, 1.0)
        if self.geometric:
            return self.start * (self.stop / self.start) ** done
        return self.start + (self.stop - self.start) * done


@dataclass(frozen=True)
class LearningRates:
    """Adam's initial learning rates, of the scaled variables; each falls along a cosine to 0."""

    lattice: float
    coords: float
    composition: float


@dataclass(frozen=True)
class Preset:
    """A complete way to run the loop.

    Attributes
    ----------
    name : str
    lattice_start : callable
        Lattice lengths of new candidates.
    logit_spread : float
        Standard deviation of the logits of new candidates.
    rounds : int
        The steps are divided into rounds. At the end of each, candidates that meet all objectives
        are kept as they are and the others start again; schedules restart with them.
    distinct_rounds : int
        In so many first rounds, candidates that become discrete must choose compositions that no
        other candidate holds. Later ones may repeat: some targets allow few compositions.
    temperature : Temperature
    learning_rates : LearningRates
    masking : {"exact", "paper"}
        See :func:`smoacs.ops.masked_softmax`.
    rebuilds : int or None
        Number of graph rebuilds of the paper's schedule; None: every step.
    mutation : Mutation or None
        The paper's mutation.
    """

    name: str
    lattice_start: LatticeStart
    logit_spread: float
    rounds: int
    distinct_rounds: int
    temperature: Temperature
    learning_rates: LearningRates
    masking: str = "exact"
    rebuilds: int | None = None
    mutation: Mutation | None = None

    def round_ends(self, steps: int) -> list[int]:
        """Steps at which rounds end, the last being ``steps``; at most one round per step."""
        rounds = min(self.rounds, steps)
        return [steps * (i + 1) // rounds for i in range(rounds)]

    def rebuild_steps(self, steps: int) -> frozenset[int]:
        """Steps that start with a new graph (paper, appendix; section 5 of the method)."""
        if self.rebuilds is None:
            return frozenset(range(steps))
        thresholds = [(i + 1) / (self.rebuilds + 1) for i in range(self.rebuilds)]
        chosen = {0}
        for step in range(steps):
            progress = math.sin(math.pi / 2 * step / steps)
            passed = [t for t in thresholds if t < progress]
            if passed:
                chosen.add(step)
                thresholds = thresholds[len(passed) :]
        return frozenset(chosen)


def cosine(progress: float) -> float:
    """Factor of the learning rate, from 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


PRESETS = {
    "default": Preset(
        name="default",
        lattice_start=radii_lengths,
        logit_spread=0.5,
        rounds=10,
        distinct_rounds=4,
        temperature=Temperature(1.0, 0.05, geometric=True, discrete_from=0.4),
        learning_rates=LearningRates(lattice=0.05, coords=0.01, composition=0.5),
    ),
    "paper": Preset(
        name="paper",
        lattice_start=random_lengths,
        logit_spread=0.0,
        rounds=1,
        distinct_rounds=0,
        temperature=Temperature(0.01, 0.0001, geometric=False, discrete_from=math.inf),
        learning_rates=LearningRates(lattice=7e-4, coords=7e-4, composition=3e-4),
        rebuilds=44,
        mutation=Mutation(),
    ),
}
