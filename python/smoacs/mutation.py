"""The paper's mutation: poor candidates continue from good ones (appendix; method, section 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smoacs.ops import random_uniform, resample
from smoacs.start import UNIFORM_LOGIT
from smoacs.templates import DesignSpace
from smoacs.variables import Variables

_CHOICE = 16  # stream of random numbers; resample uses those from _NOISE on
_NOISE = 17


@dataclass(frozen=True)
class Mutation:
    """When and how candidates are replaced.

    Attributes
    ----------
    fractions : tuple of float
        Fractions of the run after which mutation happens (the paper: steps 50, 100, 150 of 200).
    top_ratio : float
        Share of the unsuccessful candidates that is kept and may become parents.
    skip : float
        Probability with which a candidate that should be replaced is left alone.
    noise : float
        Standard deviation of the noise on copied variables.
    """

    fractions: tuple[float, ...] = (0.25, 0.5, 0.75)
    top_ratio: float = 0.3
    skip: float = 0.1
    noise: float = 5e-5

    def steps(self, steps: int) -> frozenset[int]:
        """Numbers of finished steps after which mutation happens."""
        return frozenset(round(f * steps) for f in self.fractions)

    def parents(
        self, space: DesignSpace, loss: Tensor, success: Tensor, seed: int, step: int
    ) -> Tensor:
        """Candidate whose variables each candidate continues with, (C,) int64.

        Parents share the template of their child. Candidates whose loss is not finite never
        become parents, whatever their number.

        Parameters
        ----------
        space : DesignSpace
        loss : Tensor (C,)
            NaN for failed candidates.
        success : Tensor (C,), bool
            Whether a candidate meets all objectives (group A).
        seed, step : int
            Key of the random choice.
        """
        identity = torch.arange(len(space), device=space.device)
        offsets = torch.arange(len(space) + 1, device=space.device)
        draws = random_uniform(
            seed, identity, step, _CHOICE, offsets, 2, torch.float64, space.device
        )
        parents = identity.clone()
        for number in range(len(space.templates)):
            members = torch.nonzero(space.template == number).flatten()
            rest = members[~success[members]]
            finite = rest[torch.isfinite(loss[rest])]
            ranked = finite[torch.argsort(loss[finite], stable=True)]
            best = ranked[: int(self.top_ratio * rest.numel())]  # group B
            pool = torch.cat([members[success[members]], best])
            if pool.numel() == 0:
                continue
            poor = rest[~torch.isin(rest, best)]  # group C
            poor = poor[(draws[poor, 0] >= self.skip) | ~torch.isfinite(loss[poor])]
            parents[poor] = pool[(draws[poor, 1] * pool.numel()).long()]
        return parents

    def apply(
        self, variables: Variables, space: DesignSpace, parents: Tensor, seed: int, step: int
    ) -> Variables:
        """Copy lattice, coordinates and pattern logits with noise; element logits to uniform."""
        identity = torch.arange(len(space), device=space.device)
        per_candidate = torch.arange(len(space) + 1, device=space.device)
        mutated = {}
        for stream, name in enumerate(("lengths", "angles", "frac_coords", "pattern_logits")):
            ptr = space.ptr if name in Variables.PER_SITE else per_candidate
            mutated[name] = resample(
                getattr(variables, name),
                ptr,
                parents,
                identity,
                self.noise,
                seed,
                step,
                _NOISE + stream,
            )
        child = (parents != identity)[space.candidate_of_site]
        return replace(
            variables,
            **mutated,
            element_logits=variables.element_logits.masked_fill(child[:, None], UNIFORM_LOGIT),
            length_scale=variables.length_scale[parents],
        )
