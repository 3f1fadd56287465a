"""The optimisation loop (paper, section 3; specs of the two presets in ``schedules``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smoacs.adam import Adam
from smoacs.crystals import CrystalBatch, ragged_rows
from smoacs.diversity import compositions, distinct_logits
from smoacs.objectives import Design, Objective
from smoacs.predictors.base import Graph, GraphSpec, Predictor
from smoacs.schedules import Preset, cosine
from smoacs.start import initial_variables
from smoacs.templates import DesignSpace
from smoacs.variables import Variables, crystals_of, discrete_crystals, project, soft_crystals

_GROUPS = {
    "lattice": ("lengths", "angles"),
    "coords": ("frac_coords",),
    "composition": ("element_logits", "pattern_logits"),
}
MIN_VOLUME_PER_SITE = 0.5  # Å^3; below this a cell has collapsed
SITES_PER_BATCH = 1280
_REASONS = ("", "the cell collapsed", "the prediction is not a finite number")
_COLLAPSED, _NOT_FINITE = 1, 2


@dataclass(frozen=True)
class Evaluation:
    """Objectives of n candidates.

    Attributes
    ----------
    loss : Tensor (n,)
        Sum of all losses; NaN where a candidate failed.
    values : Tensor (n, n_objectives)
    satisfied : Tensor (n, n_objectives), bool
    """

    loss: Tensor
    values: Tensor
    satisfied: Tensor


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes
    ----------
    step : int
        Number of finished steps.
    temperature : float or None
        None when the compositions were discrete.
    loss : Tensor (C,)
        NaN for candidates that were not evaluated or failed.
    values : Tensor (C, n_objectives)
    n_success : int
        Candidates whose best discrete crystal meets all objectives.
    """

    step: int
    temperature: float | None
    loss: Tensor
    values: Tensor
    n_success: int


def choose_predictors(
    predictors: Sequence[Predictor], objectives: Sequence[Objective]
) -> list[Predictor]:
    """The predictors that are needed, of some with distinct properties.

    Raises
    ------
    ValueError
        If no predictor gives a property, or a window lies outside of its range.
    """
    giver = {}
    for predictor in predictors:
        giver.update({p.name: (predictor, p) for p in predictor.properties})
    asked = []
    for objective in objectives:
        for name in objective.properties:
            if name not in giver:
                raise ValueError(
                    f"no predictor gives {name!r}; the chosen ones give: "
                    f"{', '.join(sorted(giver)) or 'nothing'}"
                )
            predictor, prop = giver[name]
            target = getattr(objective, "target", None)
            if target is not None and not prop.low <= target <= prop.high:
                raise ValueError(
                    f"target {name} = {target:g} {prop.unit} lies outside the range of "
                    f"{predictor.name}: {prop.low:g} to {prop.high:g} {prop.unit}"
                )
            asked.append(predictor)
    return [predictor for predictor in predictors if predictor in asked]


def predict_all(
    predictors: Sequence[Predictor], crystals: CrystalBatch, graphs: Mapping[GraphSpec, Graph]
) -> dict[str, Tensor]:
    """All properties of all predictors."""
    properties: dict[str, Tensor] = {}
    for predictor in predictors:
        graph = graphs[predictor.graph] if predictor.graph else None
        properties |= predictor.predict(crystals, graph)
    return properties


def build_graphs(predictors: Sequence[Predictor], crystals: CrystalBatch) -> dict[GraphSpec, Graph]:
    """One graph per distinct specification."""
    specs = {predictor.graph for predictor in predictors if predictor.graph}
    return {spec: Graph.build(crystals, spec) for spec in specs}


def batches(members: Tensor, n_sites: Tensor, sites_per_batch: int) -> list[Tensor]:
    """Divide crystals among batches of about ``sites_per_batch`` sites, at least one each.

    Parameters
    ----------
    members : Tensor (n,), int64
        Crystals to divide.
    n_sites : Tensor (C,), int64
        Sites of all crystals.
    sites_per_batch : int
    """
    if members.numel() == 0:
        return []
    group = (n_sites[members].cumsum(0) - 1) // sites_per_batch
    _, sizes = torch.unique_consecutive(group, return_counts=True)
    return list(members.split(sizes.tolist()))


class _Batch(NamedTuple):
    """Candidates that are evaluated together."""

    members: Tensor
    sites: Tensor
    space: DesignSpace


class Optimizer:
    """Candidates, optimised step by step; all state is in :meth:`state_dict`.

    What the loop itself wants to know of a GPU it asks twice per step, of all candidates at once:
    before the evaluation, whether some have failed, and at the end how many succeed.

    Parameters
    ----------
    space : DesignSpace
    objectives : sequence of Objective
    predictors : sequence of Predictor
        Frozen models; no two give the same property.
    preset : Preset
    steps : int
        Length of the whole run.
    seed : int
    sites_per_batch : int
        Candidates are evaluated together up to this number of sites; does not change results.

    Raises
    ------
    ValueError
        If steps is below 1 or a property is missing.
    """

    def __init__(
        self,
        space: DesignSpace,
        objectives: Sequence[Objective],
        predictors: Sequence[Predictor],
        preset: Preset,
        steps: int,
        seed: int,
        sites_per_batch: int = SITES_PER_BATCH,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not objectives:
            raise ValueError("a design needs at least one objective, got none")
        self.space = space
        self.objectives = tuple(objectives)
        self.predictors = choose_predictors(predictors, objectives)
        self.preset = preset
        self.steps = steps
        self.seed = seed
        self.sites_per_batch = sites_per_batch
        self.step_count = 0
        self.variables = self._fresh_variables(0)
        self.best = self.variables
        self.best_loss = self._filled(float("inf"))
        self.best_satisfied = torch.full((len(space),), -1, device=space.device)
        self.active = torch.ones(len(space), dtype=torch.bool, device=space.device)
        self._failure = torch.zeros(len(space), dtype=torch.int64, device=space.device)
        self._is_discrete = False
        self._adam = self._new_adam()
        self._batched = torch.zeros_like(self.active)
        self._batches: list[_Batch] = []
        self._graphs: dict[int, dict[GraphSpec, Graph]] = {}
        self._renew_graphs()

    @property
    def _identity(self) -> Tensor:
        return torch.arange(len(self.space), device=self.space.device)

    def _fresh_variables(self, round_: int) -> Variables:
        return initial_variables(
            self.space,
            self.seed,
            self._identity,
            round_,
            self.preset.lattice_start,
            self.preset.logit_spread,
        )

    def _filled(self, value: float) -> Tensor:
        return torch.full(
            (len(self.space),), value, dtype=self.space.dtype, device=self.space.device
        )

    @property
    def success(self) -> Tensor:
        """Candidates whose best discrete crystal meets all objectives, (C,) bool."""
        return self.best_satisfied == len(self.objectives)

    @property
    def failure(self) -> dict[int, str]:
        """Why candidates failed, by their number."""
        reasons = enumerate(self._failure.tolist())
        return {candidate: _REASONS[reason] for candidate, reason in reasons if reason}

    def _new_adam(self) -> Adam:
        self.variables = Variables(
            **{name: value.detach().clone() for name, value in self.variables.items()}
        )
        groups = []
        for group, names in _GROUPS.items():
            params = [getattr(self.variables, name).requires_grad_() for name in names]
            groups.append({"params": params, "lr": getattr(self.preset.learning_rates, group)})
        return Adam(groups)

    def step(self) -> StepReport:
        """Evaluate the active candidates once and move their variables."""
        ends = self.preset.round_ends(self.steps)
        end = next(e for e in ends if e > self.step_count)
        start = max((e for e in ends if e <= self.step_count), default=0)
        progress = (self.step_count - start) / (end - start)
        temperature = self.preset.temperature.at(progress)
        if self.step_count in self.preset.rebuild_steps(self.steps):
            self._renew_graphs()
        round_ = ends.index(end)
        settles = temperature is None and not self._is_discrete
        if settles and round_ < self.preset.distinct_rounds:
            self._settle()
        self._is_discrete = temperature is None

        evaluation = self._evaluate(temperature, backward=True)
        if temperature is None:
            self._keep_best(evaluation)
        self._move(cosine(progress))
        self.step_count += 1

        mutation = self.preset.mutation
        if mutation and self.step_count in mutation.steps(self.steps):
            self._mutate(evaluation)
        if self.step_count == end:
            if temperature is not None:  # no step has judged the discrete crystals yet
                self._renew_graphs()
                self._keep_best(self._evaluate(None, backward=False))
            if end < self.steps:
                self._start_again(round_ + 1)
        return StepReport(
            self.step_count,
            temperature,
            evaluation.loss,
            evaluation.values,
            int(self.success.sum()),
        )

    def _settle(self) -> None:
        """Active candidates settle on compositions that differ from each other's and successes'."""
        best, _ = self.result()
        held = compositions(best.composition, self.space)
        taken = {held[c] for c in torch.nonzero(self.success).flatten().tolist()}
        logits = distinct_logits(self.variables, self.space, self.active, taken)
        with torch.no_grad():
            self.variables.element_logits.copy_(logits)

    def _evaluate(self, temperature: float | None, *, backward: bool) -> Evaluation:
        """Objectives of the active candidates, in smaller batches when memory runs out."""
        while True:
            try:
                return self._evaluate_batches(temperature, backward=backward)
            except torch.OutOfMemoryError:
                if self.sites_per_batch <= int(self.space.ptr.diff().min()):
                    raise
                self.sites_per_batch //= 2
                self._divide()

    def _evaluate_batches(self, temperature: float | None, *, backward: bool) -> Evaluation:
        """Objectives of the active candidates, batch by batch; gradients add up in the leaves."""
        loss = self._filled(float("nan"))
        values = loss[:, None].repeat(1, len(self.objectives))
        self._mark_collapsed()
        if not torch.equal(self.active, self._batched):
            self._divide()
        self._adam.zero_grad()
        for number, batch in enumerate(self._batches):
            with torch.set_grad_enabled(backward):
                batch_loss, batch_values = self._evaluate_batch(number, batch, temperature)
                if backward:
                    batch_loss.backward(torch.isfinite(batch_loss).to(batch_loss.dtype))
            loss[batch.members] = batch_loss.detach()
            values[batch.members] = batch_values.detach()
        self._mark_failed(~torch.isfinite(loss), _NOT_FINITE)
        satisfied = torch.stack(
            [o.satisfied(values[:, i]) for i, o in enumerate(self.objectives)], dim=1
        )
        return Evaluation(loss, values, satisfied & torch.isfinite(loss)[:, None])

    def _divide(self) -> None:
        """Divide the active candidates among batches; other batches need other graphs."""
        members = torch.nonzero(self.active).flatten()
        self._batches = [
            _Batch(part, ragged_rows(self.space.ptr, part)[0], self.space.select(part))
            for part in batches(members, self.space.ptr.diff(), self.sites_per_batch)
        ]
        self._batched = self.active.clone()
        self._graphs = {}

    def _evaluate_batch(
        self, number: int, batch: _Batch, temperature: float | None
    ) -> tuple[Tensor, Tensor]:
        members, sites, space = batch
        variables = self.variables.take(members, sites)
        if temperature is None:
            crystals, weights = discrete_crystals(variables, space)
        else:
            crystals, weights = soft_crystals(variables, space, temperature, self.preset.masking)
        if number not in self._graphs:
            built_at = self._graph_variables.take(members, sites)
            self._graphs[number] = build_graphs(
                self.predictors, crystals_of(built_at, space, crystals.composition)
            )
        properties: dict[str, Tensor] = {}
        design = Design(crystals, weights, space, properties)
        # Predictions last: for a neighbour list, the host waits for all that a GPU has yet to do.
        early = [None if o.properties else o.value(design) for o in self.objectives]
        properties |= predict_all(self.predictors, crystals, self._graphs[number])
        values = [
            o.value(design) if value is None else value
            for o, value in zip(self.objectives, early, strict=True)
        ]
        losses = [o.loss(value) for o, value in zip(self.objectives, values, strict=True)]
        return torch.stack(losses).sum(0), torch.stack(values, dim=1)

    def _renew_graphs(self) -> None:
        """From now on, graphs are those of the present geometry.

        They are built when a batch first needs them, and again when candidates leave the batches:
        the geometry is kept, so that a candidate's graph does not depend on the others.
        """
        self._graph_variables = Variables(
            **{name: value.detach().clone() for name, value in self.variables.items()}
        )
        self._graphs = {}

    def _move(self, factor: float) -> None:
        """One Adam step of the active candidates, then back inside the limits."""
        sites = self.active[self.space.candidate_of_site]
        for name, value in self.variables.items():
            if value.grad is None:
                continue  # Adam leaves these alone too: discrete compositions stay
            rows = sites if name in Variables.PER_SITE else self.active
            broken = ~torch.isfinite(value.grad)
            value.grad.masked_fill_(broken | ~rows.reshape(-1, *[1] * (value.dim() - 1)), 0.0)
        for group, rate in zip(
            self._adam.param_groups, vars(self.preset.learning_rates).values(), strict=True
        ):
            group["lr"] = rate * factor
        before = {name: value.detach().clone() for name, value in self.variables.items()}
        self._adam.step()
        with torch.no_grad():
            projected = project(self.variables, self.space)
            kept = Variables(**before).where(self.active, projected, self.space.ptr)
            self._write(kept)

    def _write(self, values: Variables) -> None:
        """Set the variables in place, so that Adam's moments stay with them."""
        with torch.no_grad():
            for name, value in self.variables.items():
                value.copy_(getattr(values, name))

    def _keep_best(self, evaluation: Evaluation) -> None:
        """Remember the discrete crystals that satisfy more objectives, or as many at less loss."""
        satisfied = evaluation.satisfied.sum(1)
        better = (satisfied > self.best_satisfied) | (
            (satisfied == self.best_satisfied) & (evaluation.loss < self.best_loss)
        )
        better &= torch.isfinite(evaluation.loss)
        with torch.no_grad():
            self.best = self.best.where(better, self.variables, self.space.ptr)
        self.best_loss = torch.where(better, evaluation.loss, self.best_loss)
        self.best_satisfied = torch.where(better, satisfied, self.best_satisfied)

    def _mutate(self, evaluation: Evaluation) -> None:
        discrete = self._evaluate(None, backward=False)
        success = discrete.satisfied.all(1)
        mutation, seed, step = self.preset.mutation, self.seed, self.step_count
        assert mutation is not None
        parents = mutation.parents(self.space, evaluation.loss, success, seed, step)
        with torch.no_grad():
            mutated = mutation.apply(self.variables, self.space, parents, seed, step)
            self._write(project(mutated, self.space))
        self.active |= parents != self._identity
        self._renew_graphs()

    def _start_again(self, round_: int) -> None:
        """Unsuccessful candidates begin a new round elsewhere; successful ones rest."""
        self.active = ~self.success
        fresh = self._fresh_variables(round_)
        with torch.no_grad():
            self.variables = self.variables.where(self.active, fresh, self.space.ptr)
        self._adam = self._new_adam()
        self._renew_graphs()

    def _mark_collapsed(self) -> None:
        with torch.no_grad():
            volume = torch.linalg.det(self.variables.lattice()).abs() / self.space.ptr.diff()
        self._mark_failed(~(volume > MIN_VOLUME_PER_SITE), _COLLAPSED)

    def _mark_failed(self, failed: Tensor, reason: int) -> None:
        failed = failed & self.active
        self._failure = self._failure.masked_fill(failed, reason)
        self.active = self.active & ~failed

    def result(self) -> tuple[CrystalBatch, Tensor]:
        """Best discrete crystal of every candidate, in float64, and its pattern weights (C, K)."""
        best = Variables(**{name: value.detach().double() for name, value in self.best.items()})
        return discrete_crystals(best, self.space)

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs to continue to the same result."""
        return {
            "step_count": self.step_count,
            "variables": {n: v.detach() for n, v in self.variables.items()},
            "graph_variables": dict(self._graph_variables.items()),
            "best": {n: v.detach() for n, v in self.best.items()},
            "best_loss": self.best_loss,
            "best_satisfied": self.best_satisfied,
            "active": self.active,
            "is_discrete": self._is_discrete,
            "failure": self.failure,
            "adam": self._adam.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state of an optimiser made with the same arguments."""
        self.step_count = state["step_count"]
        self.variables = Variables(**state["variables"])
        self.best = Variables(**state["best"])
        self.best_loss = state["best_loss"]
        self.best_satisfied = state["best_satisfied"]
        self.active = state["active"]
        self._is_discrete = state["is_discrete"]
        reasons = [_REASONS.index(state["failure"].get(c, "")) for c in range(len(self.space))]
        self._failure = torch.tensor(reasons, device=self.space.device)
        self._adam = self._new_adam()
        self._adam.load_state_dict(state["adam"])
        self._graph_variables = Variables(**state["graph_variables"])
        self._graphs = {}
