"""What a design should reach: losses for the gradient, criteria for success (paper, 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.templates import DesignSpace


@dataclass(frozen=True)
class Design:
    """C candidates as objectives see them.

    Attributes
    ----------
    crystals : CrystalBatch
        Soft or discrete crystals.
    pattern_weights : Tensor (C, K)
        Weights q of the oxidation patterns.
    space : DesignSpace
        Templates, site roles and radii.
    properties : mapping of str to Tensor (C,)
        Predictions, in the units of the predictors.
    """

    crystals: CrystalBatch
    pattern_weights: Tensor
    space: DesignSpace
    properties: Mapping[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """A target; the optimiser minimises the sum of all losses."""

    @property
    def name(self) -> str:
        """Column of results.csv that holds :meth:`value`; ``<name>_ok`` tells success."""
        ...

    @property
    def properties(self) -> tuple[str, ...]:
        """Predicted properties that are needed."""
        ...

    def value(self, design: Design) -> Tensor:
        """The quantity itself, (C,)."""
        ...

    def loss(self, design: Design) -> Tensor:
        """Loss of each candidate, (C,), differentiable."""
        ...

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether values (C,) meet the target, (C,) bool; NaN never does."""
        ...


@dataclass(frozen=True)
class _PropertyObjective:
    property: str

    @property
    def name(self) -> str:
        return self.property

    @property
    def properties(self) -> tuple[str, ...]:
        return (self.property,)

    def value(self, design: Design) -> Tensor:
        return design.properties[self.property]


@dataclass(frozen=True)
class Window(_PropertyObjective):
    """Bring a property to a target: loss ``max(|value - target| - slack, 0)``.

    Parameters
    ----------
    property : str
        Predicted property, e.g. ``"band_gap"``.
    target : float
        Wanted value.
    margin : float
        A candidate succeeds within target ± margin.
    slack : float, optional
        Deviation without loss, margin / 5 unless given (the paper: 0.04 of 0.2 eV).

    Raises
    ------
    ValueError
        If the margin is not positive or the slack is not in [0, margin).
    """

    target: float
    margin: float
    slack: float | None = None

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"the margin of {self.property} must be positive, got {self.margin}")
        if self.slack is not None and not 0 <= self.slack < self.margin:
            raise ValueError(
                f"the slack of {self.property} must be in [0, {self.margin}), got {self.slack}"
            )

    def loss(self, design: Design) -> Tensor:
        """Distance from the window, (C,)."""
        slack = self.margin / 5 if self.slack is None else self.slack
        return ((self.value(design) - self.target).abs() - slack).clamp_min(0)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether |value - target| <= margin."""
        return (value - self.target).abs() <= self.margin


@dataclass(frozen=True)
class Minimize(_PropertyObjective):
    """Lower a property: loss ``strength * max(value, enough)``.

    Parameters
    ----------
    property : str
        Predicted property, e.g. ``"formation_energy"``.
    below : float
        A candidate succeeds with a value below this; without it every value does.
    strength : float
        Weight of the loss, λ in the paper.
    enough : float, optional
        Values below this earn nothing more, which leaves room for the other objectives and for
        different compositions; ``below - 0.4 |below|`` unless given. The paper's is -inf.
    """

    below: float = inf
    strength: float = 1.0
    enough: float | None = None

    def loss(self, design: Design) -> Tensor:
        """Weighted value, (C,)."""
        default = self.below - 0.4 * abs(self.below) if isfinite(self.below) else -inf
        enough = default if self.enough is None else self.enough
        return self.strength * self.value(design).clamp_min(enough)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether value < below."""
        return value < self.below


@dataclass(frozen=True)
class Maximize(_PropertyObjective):
    """Raise a property: loss ``-strength * min(value, enough)``.

    Parameters
    ----------
    property : str
        Predicted property, e.g. ``"tc"``.
    above : float
        A candidate succeeds with a value above this; without it every value does.
    strength : float
        Weight of the loss.
    enough : float, optional
        Values above this earn nothing more; ``above + 0.4 |above|`` unless given. The paper's is
        inf.
    """

    above: float = -inf
    strength: float = 1.0
    enough: float | None = None

    def loss(self, design: Design) -> Tensor:
        """Weighted negative value, (C,)."""
        default = self.above + 0.4 * abs(self.above) if isfinite(self.above) else inf
        enough = default if self.enough is None else self.enough
        return -self.strength * self.value(design).clamp_max(enough)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether value > above."""
        return value > self.above


@dataclass(frozen=True)
class ToleranceFactor:
    """Keep Goldschmidt's t = (r_A + r_X) / (sqrt(2) (r_B + r_X)) of a perovskite in a range.

    The radii are means under the composition and the oxidation patterns; the loss is zero inside
    the middle four fifths of the range.

    Parameters
    ----------
    low, high : float
        Range of success.
    """

    low: float = 0.8
    high: float = 1.0

    name = "tolerance_factor"
    properties: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(
                f"a tolerance-factor range must satisfy 0 < low < high, got {self.low}, {self.high}"
            )

    def value(self, design: Design) -> Tensor:
        """Tolerance factors, (C,)."""
        radii = design.space.radii(design.crystals.composition, design.pattern_weights)
        a, b, x = (design.space.role_mean(radii, role) for role in "ABX")
        return (a + x) / (2**0.5 * (b + x))

    def loss(self, design: Design) -> Tensor:
        """Distance from the middle four fifths of the range, (C,)."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return ((self.value(design) - middle).abs() - 0.8 * half).clamp_min(0)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether low <= value <= high."""
        return (value >= self.low) & (value <= self.high)


@dataclass(frozen=True)
class Custom:
    """Any differentiable function of the candidates as a loss.

    Parameters
    ----------
    name : str
        Column of results.csv.
    function : callable
        ``function(design) -> Tensor (C,)``; its value is the loss.
    needs : tuple of str
        Properties that ``design.properties`` must hold.
    success : callable, optional
        ``success(values) -> Tensor (C,) bool``; without it every finite value succeeds.

    Examples
    --------
    >>> dense = Custom("volume_per_site", lambda d: d.crystals.volume / d.crystals.n_sites)
    """

    name: str
    function: Callable[[Design], Tensor]
    needs: tuple[str, ...] = ()
    success: Callable[[Tensor], Tensor] = torch.isfinite

    @property
    def properties(self) -> tuple[str, ...]:
        """Predicted properties that are needed."""
        return self.needs

    def value(self, design: Design) -> Tensor:
        """The function, (C,)."""
        value = self.function(design)
        if value.shape != (len(design.crystals),):
            raise ValueError(
                f"objective {self.name} returned shape {tuple(value.shape)}, "
                f"expected ({len(design.crystals)},): one number per candidate"
            )
        return value

    def loss(self, design: Design) -> Tensor:
        """The function, (C,)."""
        return self.value(design)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether the values succeed."""
        return self.success(value)
