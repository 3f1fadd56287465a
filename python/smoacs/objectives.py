"""What a design should reach: losses for the gradient, criteria for success (paper, 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from smoacs.crystals import CrystalBatch, sum_by_crystal
from smoacs.ops import NeighborList, edge_vectors, neighbor_list
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

    @cached_property
    def radii(self) -> Tensor:
        """Mean ionic radius of each site, (S,) in Å."""
        return self.space.radii(self.crystals.composition, self.pattern_weights)


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
        """The quantity itself, (C,), differentiable."""
        ...

    def loss(self, value: Tensor) -> Tensor:
        """Loss of values (C,), differentiable."""
        ...

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether values (C,) meet the target, (C,) bool; NaN never does."""
        ...


@dataclass(frozen=True)
class _PropertyObjective:
    name: str

    @property
    def properties(self) -> tuple[str, ...]:
        return (self.name,)

    def value(self, design: Design) -> Tensor:
        return design.properties[self.name]


@dataclass(frozen=True)
class Window(_PropertyObjective):
    """Bring a property to a target: loss ``max(|value - target| - slack, 0)``.

    Parameters
    ----------
    name : str
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
            raise ValueError(f"the margin of {self.name} must be positive, got {self.margin}")
        if self.slack is not None and not 0 <= self.slack < self.margin:
            raise ValueError(
                f"the slack of {self.name} must be in [0, {self.margin}), got {self.slack}"
            )

    def loss(self, value: Tensor) -> Tensor:
        """Distance from the window, (C,)."""
        slack = self.margin / 5 if self.slack is None else self.slack
        return ((value - self.target).abs() - slack).clamp_min(0)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether |value - target| <= margin."""
        return (value - self.target).abs() <= self.margin


@dataclass(frozen=True)
class Minimize(_PropertyObjective):
    """Lower a property: loss ``strength * max(value, enough)``.

    Parameters
    ----------
    name : str
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

    def loss(self, value: Tensor) -> Tensor:
        """Weighted value, (C,)."""
        default = self.below - 0.4 * abs(self.below) if isfinite(self.below) else -inf
        enough = default if self.enough is None else self.enough
        return self.strength * value.clamp_min(enough)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether value < below."""
        return value < self.below


@dataclass(frozen=True)
class Maximize(_PropertyObjective):
    """Raise a property: loss ``-strength * min(value, enough)``.

    Parameters
    ----------
    name : str
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

    def loss(self, value: Tensor) -> Tensor:
        """Weighted negative value, (C,)."""
        default = self.above + 0.4 * abs(self.above) if isfinite(self.above) else inf
        enough = default if self.enough is None else self.enough
        return -self.strength * value.clamp_max(enough)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether value > above."""
        return value > self.above


@dataclass(frozen=True)
class ToleranceFactor:
    """Keep Goldschmidt's t = (r_A + r_X) / (sqrt(2) (r_B + r_X)) of a perovskite in a range.

    The radii are means under the composition and the oxidation patterns.

    Parameters
    ----------
    low, high : float
        Range of success.
    strength : float
        Weight of the loss, which is zero inside the middle four fifths of the range. The paper's
        is 1; differences of 0.1 matter here, unlike those of an energy in eV.
    """

    low: float = 0.8
    high: float = 1.0
    strength: float = 5.0

    name = "tolerance_factor"
    properties: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(
                f"a tolerance-factor range must satisfy 0 < low < high, got {self.low}, {self.high}"
            )

    def value(self, design: Design) -> Tensor:
        """Tolerance factors, (C,)."""
        a, b, x = (design.space.role_mean(design.radii, role) for role in "ABX")
        return (a + x) / (2**0.5 * (b + x))

    def loss(self, value: Tensor) -> Tensor:
        """Distance from the middle four fifths of the range, (C,)."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return self.strength * ((value - middle).abs() - 0.8 * half).clamp_min(0)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether low <= value <= high."""
        return (value >= self.low) & (value <= self.high)


@dataclass(frozen=True)
class IonicContacts:
    """Keep the ions in touch with their nearest ions of opposite charge.

    Predictors know relaxed crystals only and can be fooled by a cell that is far too small or too
    large. The value is the contact strain: the root mean square over the sites of
    ``ln(distance / sum of the two ionic radii)`` to the nearest ion of opposite charge; nan for a
    crystal with a neutral site, or with a site that has no opposite ion within 7 Å. Of the
    charge-neutral crystals of the Materials Project, 84 % keep within the default limit.

    Parameters
    ----------
    limit : float
        A candidate succeeds with a contact strain of at most this.
    strength : float
        Weight of the loss, which is zero up to four fifths of the limit.
    """

    limit: float = 0.2
    strength: float = 5.0

    name = "contact_strain"
    properties: tuple[str, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"the limit of the contact strain must be positive, got {self.limit}")

    def value(self, design: Design) -> Tensor:
        """Contact strain, (C,)."""
        crystals, space, radii = design.crystals, design.space, design.radii
        pattern = design.pattern_weights.argmax(1)
        charges = space.oxidation_states.gather(1, pattern[space.candidate_of_site][:, None])[:, 0]
        nearest = _nearest_opposite(crystals, charges, radii.detach())
        vectors = edge_vectors(crystals.frac_coords, crystals.lattice, nearest)
        # A site without opposite ion has an edge to itself, whose length has no gradient.
        isolated = torch.isinf(nearest.distance)
        squared = (vectors * vectors).sum(1).masked_fill(isolated, torch.nan)
        strain = squared.log() / 2 - (radii + radii[nearest.dst]).log()
        total = sum_by_crystal(strain * strain, crystals.ptr)
        # The clamp keeps the gradient of a perfect crystal zero instead of nan.
        return (total / crystals.n_sites).clamp_min(1e-12).sqrt()

    def loss(self, value: Tensor) -> Tensor:
        """Excess over four fifths of the limit, (C,)."""
        return self.strength * (value - 0.8 * self.limit).clamp_min(0)

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether value <= limit."""
        return value <= self.limit


_REACH = 7.0  # Å; the longest anion-cation distance in the largest perovskite cell is 5 Å


def _nearest_opposite(crystals: CrystalBatch, charges: Tensor, radii: Tensor) -> NeighborList:
    """For each site, its bond to the ion of opposite charge with the smallest contact ratio.

    A site without such an ion has a bond to itself with an infinite distance.
    """
    pairs = neighbor_list(
        crystals.frac_coords.detach(), crystals.lattice.detach(), crystals.ptr, cutoff=_REACH
    )
    n_sites, device = charges.numel(), charges.device
    src, dst, none = pairs.src, pairs.dst, len(pairs.src)
    opposite = charges[src] * charges[dst] < 0
    ratio = (pairs.distance / (radii[src] + radii[dst])).where(opposite, torch.inf)
    smallest = torch.full((n_sites,), torch.inf, dtype=ratio.dtype, device=device)
    smallest = smallest.scatter_reduce(0, src, ratio, "amin")
    number = torch.arange(none, device=device)
    edge = torch.full((n_sites,), none, device=device).scatter_reduce(
        0, src, number.where(opposite & (ratio == smallest[src]), none), "amin"
    )
    sites = torch.arange(n_sites, device=device)
    padded_dst = torch.cat([pairs.dst, pairs.dst.new_zeros(1)])
    padded_shift = torch.cat([pairs.shift, pairs.shift.new_zeros(1, 3)])
    return NeighborList(
        src=sites,
        dst=padded_dst[edge].where(edge < none, sites),
        shift=padded_shift[edge],
        distance=smallest,
        edge_ptr=crystals.ptr,
    )


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
        Properties that ``design.properties`` must hold; it may lack all others.
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
        try:
            value = self.function(design)
        except KeyError as error:
            raise ValueError(
                f"objective {self.name} reads {error}, but its needs are {self.needs}"
            ) from error
        if value.shape != (len(design.crystals),):
            raise ValueError(
                f"objective {self.name} returned shape {tuple(value.shape)}, "
                f"expected ({len(design.crystals)},): one number per candidate"
            )
        return value

    def loss(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def satisfied(self, value: Tensor) -> Tensor:
        """Whether the values succeed."""
        return self.success(value)
