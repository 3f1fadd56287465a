"""Templates of a whole batch of candidates as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from smoacs.crystals import ragged_rows, sum_by_crystal
from smoacs.ops import PackedMask, pack_mask
from smoacs.templates.base import Template


@dataclass(frozen=True)
class DesignSpace:
    """What C candidates with S sites may become; candidate c follows ``template[c]``.

    Attributes
    ----------
    templates : tuple of Template
        Templates in use.
    template : Tensor (C,), int64
        Template of each candidate.
    ptr : Tensor (C + 1,), int64
        Offsets of the candidates' sites.
    dtype, device
        Of all floating-point members.
    """

    templates: tuple[Template, ...]
    template: Tensor
    ptr: Tensor
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def create(
        cls,
        templates: Sequence[Template],
        n_candidates: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> DesignSpace:
        """Spread candidates evenly over the templates: candidate i follows template i mod n.

        Raises
        ------
        ValueError
            If there is no template or no candidate.
        """
        if not templates:
            raise ValueError("a design needs at least one template, got none")
        if n_candidates < 1:
            raise ValueError(f"candidates must be at least 1, got {n_candidates}")
        device = torch.device(device)
        template = torch.arange(n_candidates, device=device) % len(templates)
        counts = torch.tensor([t.n_sites for t in templates], device=device)[template]
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(tuple(templates), template, ptr, dtype, device)

    def __len__(self) -> int:
        return self.template.numel()

    def select(self, candidates: Tensor) -> DesignSpace:
        """The space of some candidates (n,), int64."""
        _, ptr = ragged_rows(self.ptr, candidates)
        return DesignSpace(self.templates, self.template[candidates], ptr, self.dtype, self.device)

    @property
    def n_sites(self) -> int:
        """Number of sites of all candidates."""
        return int(self.ptr[-1])

    @property
    def n_patterns(self) -> int:
        """Largest number of oxidation patterns of a template."""
        return max(t.oxidation_states.shape[0] for t in self.templates)

    @cached_property
    def candidate_of_site(self) -> Tensor:
        """Candidate of each site, (S,) int64."""
        return torch.repeat_interleave(
            torch.arange(len(self), device=self.device), self.ptr.diff(), output_size=self.n_sites
        )

    @cached_property
    def _template_row(self) -> Tensor:
        """Row of each site in the concatenated templates, (S,) int64."""
        counts = torch.tensor([0, *(t.n_sites for t in self.templates)], device=self.device)
        rows, _ = ragged_rows(counts.cumsum(0), self.template)
        return rows

    def _per_site(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(self.device)[self._template_row]

    def _per_candidate(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).to(self.device)[self.template]

    @cached_property
    def lengths(self) -> Tensor:
        """The templates' own a, b, c in Å, (C, 3)."""
        return self._per_candidate([t.lengths for t in self.templates]).to(self.dtype)

    @cached_property
    def angles(self) -> Tensor:
        """The templates' own angles in degrees, (C, 3)."""
        return self._per_candidate([t.angles for t in self.templates]).to(self.dtype)

    @cached_property
    def frac_coords(self) -> Tensor:
        """Ideal fractional coordinates, (S, 3)."""
        return self._per_site([t.frac_coords for t in self.templates]).to(self.dtype)

    @cached_property
    def length_bounds(self) -> Tensor:
        """Lower and upper limits of the lengths in Å, (C, 2, 3)."""
        return self._per_candidate([t.length_bounds for t in self.templates]).to(self.dtype)

    @cached_property
    def angle_bounds(self) -> Tensor:
        """Lower and upper limits of the angles in degrees, (C, 2, 3)."""
        return self._per_candidate([t.angle_bounds for t in self.templates]).to(self.dtype)

    @cached_property
    def coord_limits(self) -> Tensor:
        """Largest displacement of each fractional coordinate, (S, 3); inf: free."""
        return self._per_site(
            [np.broadcast_to(t.coord_limit, (t.n_sites, 3)) for t in self.templates]
        ).to(self.dtype)

    @cached_property
    def rotations(self) -> Tensor:
        """Point-group rotations, (C, G, 3, 3), shorter groups padded by repetition.

        The order of a lattice point group divides 48, so 48 / G repetitions keep a mean unchanged.
        """
        n = 48
        return self._per_candidate(
            [np.tile(t.rotations, (n // len(t.rotations), 1, 1)) for t in self.templates]
        ).to(self.dtype)

    @cached_property
    def pattern_exists(self) -> Tensor:
        """Whether a candidate has pattern k, (C, K) bool; templates differ in their number."""
        k = self.n_patterns
        return self._per_candidate(
            [np.arange(k) < t.oxidation_states.shape[0] for t in self.templates]
        )

    @cached_property
    def oxidation_states(self) -> Tensor:
        """Oxidation number of each site in each pattern, (S, K) int64; 0 in missing patterns."""
        return self._per_site([self._pad(t.oxidation_states.T) for t in self.templates])

    @cached_property
    def allowed(self) -> Tensor:
        """Elements allowed per template site and pattern, (sum of n, K, 98) bool."""
        return torch.from_numpy(np.concatenate([self._pad(t.allowed) for t in self.templates])).to(
            self.device
        )

    def allowed_under(self, pattern: Tensor) -> Tensor:
        """Elements each site may hold under its candidate's pattern (C,) int64, (S, 98) bool."""
        return self.allowed[self._template_row, pattern[self.candidate_of_site]]

    @cached_property
    def packed_mask(self) -> PackedMask:
        """Packed mask of all sites."""
        return pack_mask(self.allowed).select(self._template_row)

    @cached_property
    def site_radii(self) -> Tensor:
        """Ionic radius in Å of every element under every pattern, (sum of n, K, 98).

        Zero where the element is not allowed.
        """
        tables = np.concatenate([self._pad(t.site_radii) for t in self.templates])
        return torch.from_numpy(tables).to(self.device, self.dtype)

    def radii(self, composition: Tensor, pattern_weights: Tensor) -> Tensor:
        """Mean ionic radius of each site under x and q, (S,) in Å, differentiable.

        Parameters
        ----------
        composition : Tensor (S, 98)
        pattern_weights : Tensor (C, K)
        """
        weights = pattern_weights[self.candidate_of_site][:, :, None]
        allowed = self.allowed[self._template_row].to(self.dtype) * weights
        radii = (self.site_radii[self._template_row] * allowed).sum(1)
        # An element may be allowed under several patterns, with one radius each: weigh them by q.
        return (composition * radii / allowed.sum(1).clamp_min(1e-12)).sum(1)

    @cached_property
    def _numbers_in_use(self) -> list[int]:
        """Numbers of the templates that candidates follow."""
        return sorted(set(self.template.tolist()))

    @cached_property
    def _role_members(self) -> dict[str, Tensor]:
        """Whether a site has a role, (S,) bool, by role."""
        return {
            role: self._per_site([np.array(t.roles) == role for t in self.templates])
            for role in {role for t in self.templates for role in t.roles}
        }

    def role_mean(self, values: Tensor, role: str) -> Tensor:
        """Mean of a site quantity (S,) over the sites of one role, (C,).

        Raises
        ------
        ValueError
            If a template has no such role.
        """
        for number in self._numbers_in_use:
            if role not in self.templates[number].roles:
                raise ValueError(f"template {self.templates[number].name} has no {role} sites")
        member = self._role_members[role]
        count = sum_by_crystal(member.to(values.dtype), self.ptr)
        return sum_by_crystal(values * member, self.ptr) / count

    def _pad(self, array: np.ndarray) -> np.ndarray:
        """Zero-pad axis 1 (patterns) to K."""
        missing = self.n_patterns - array.shape[1]
        return np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))
