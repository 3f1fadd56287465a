"""Where candidates start: the paper's random lattices, or lattices from ionic radii."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from smoacs.crystals import N_ELEMENTS
from smoacs.ops import neighbor_list, random_normal, random_uniform
from smoacs.templates import DesignSpace, Template
from smoacs.variables import (
    Variables,
    discrete_choice,
    lattice_matrix,
    normalise_angles,
    project,
)

LatticeStart = Callable[[DesignSpace, int, Tensor, int, Variables], Tensor]
"""``rule(space, seed, candidates, round, variables) -> lengths (C, 3)`` in Å."""

UNIFORM_LOGIT = 1 / N_ELEMENTS
"""Logit of the uniform distribution; only the paper's masking, where forbidden elements have logit
0, depends on its value."""

_LENGTHS, _LOGITS, _PATTERNS = 0, 1, 2  # streams of random numbers
_STRETCH = (0.95, 1.10)


def initial_variables(
    space: DesignSpace,
    seed: int,
    candidates: Tensor,
    round_: int,
    lattice: LatticeStart,
    spread: float,
) -> Variables:
    """Variables of new candidates; a candidate's depend on its identity, not on the others.

    Parameters
    ----------
    space : DesignSpace
        Space of these candidates.
    seed : int
        Seed of the run.
    candidates : Tensor (C,), int64
        Identities of the candidates.
    round_ : int
        How often these candidates have started before.
    lattice : callable
        :func:`random_lengths` or :func:`radii_lengths`.
    spread : float
        Standard deviation of the logits; 0 gives the paper's uniform ones.
    """
    offsets = torch.arange(len(space) + 1, device=space.device)
    elements = random_normal(
        seed,
        candidates,
        round_,
        _LOGITS,
        space.ptr,
        space.allowed.shape[2],
        space.dtype,
        space.device,
    )
    patterns = random_normal(
        seed, candidates, round_, _PATTERNS, offsets, space.n_patterns, space.dtype, space.device
    )
    ones = torch.ones_like(space.lengths)
    variables = Variables(
        lengths=ones,
        angles=normalise_angles(space.angles),
        frac_coords=space.frac_coords.clone(),
        element_logits=UNIFORM_LOGIT + spread * elements,
        pattern_logits=(1 / space.n_patterns + spread * patterns).masked_fill(
            ~space.pattern_exists, float("-inf")
        ),
        length_scale=ones[:, 0],
    )
    lengths = lattice(space, seed, candidates, round_, variables)
    largest = lengths.amax(1)
    return project(
        replace(variables, lengths=lengths / largest[:, None], length_scale=largest), space
    )


def random_lengths(
    space: DesignSpace, seed: int, candidates: Tensor, round_: int, variables: Variables
) -> Tensor:
    """The paper's lattices: lengths uniform between the limits."""
    low, high = space.length_bounds.unbind(1)
    return low + (high - low) * _uniform(space, seed, candidates, round_)


def radii_lengths(
    space: DesignSpace, seed: int, candidates: Tensor, round_: int, variables: Variables
) -> Tensor:
    """Cells in which the ions that the logits favour just touch, stretched by -5 to +10 %."""
    composition, weights = discrete_choice(variables, space)
    scale = contact_scale(space, space.radii(composition, weights), weights.argmax(1))
    low, high = _STRETCH
    stretch = low + (high - low) * _uniform(space, seed, candidates, round_)
    return space.lengths * scale[:, None] * stretch


LATTICE_STARTS: dict[str, LatticeStart] = {"radii": radii_lengths, "random": random_lengths}


def _uniform(space: DesignSpace, seed: int, candidates: Tensor, round_: int) -> Tensor:
    offsets = torch.arange(len(space) + 1, device=space.device)
    return random_uniform(seed, candidates, round_, _LENGTHS, offsets, 3, space.dtype, space.device)


def contact_scale(space: DesignSpace, radii: Tensor, pattern: Tensor) -> Tensor:
    """Factor on the template's own cell at which ions of opposite charge touch, (C,).

    The mean, over all sites, of (r_i + r_j) / d_ij with the nearest site of opposite charge; 1
    where a template has no opposite charges.

    Parameters
    ----------
    space : DesignSpace
    radii : Tensor (S,)
        Ionic radii in Å.
    pattern : Tensor (C,), int64
        Oxidation pattern of each candidate.
    """
    scale = torch.ones(len(space), dtype=space.dtype, device=space.device)
    starts = space.ptr[:-1]
    for number, template in enumerate(space.templates):
        for k in range(template.oxidation_states.shape[0]):
            members = torch.nonzero((space.template == number) & (pattern == k)).flatten()
            src, dst, distance = (x.to(space.device) for x in _contacts(template, k))
            if members.numel() == 0 or src.numel() == 0:
                continue
            site = starts[members][:, None]
            ratio = (radii[site + src] + radii[site + dst]) / distance.to(space.dtype)
            scale[members] = ratio.mean(1)
    return scale


def _contacts(template: Template, pattern: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sites, their nearest sites of opposite charge, and the distances in the template's cell."""
    lattice = _lattice_of(template)
    charges = torch.from_numpy(template.oxidation_states[pattern])
    ptr = torch.tensor([0, template.n_sites])
    reach = float(torch.linalg.vector_norm(lattice[0], dim=1).max())
    pairs = neighbor_list(torch.from_numpy(template.frac_coords), lattice, ptr, cutoff=reach)
    opposite = charges[pairs.src] * charges[pairs.dst] < 0
    src, dst, distance = pairs.src[opposite], pairs.dst[opposite], pairs.distance[opposite]
    nearest = torch.full((template.n_sites,), float("inf"), dtype=distance.dtype)
    nearest = nearest.scatter_reduce(0, src, distance, "amin")
    touching = distance < nearest[src] + 1e-3
    return src[touching], dst[touching], distance[touching]


def _lattice_of(template: Template) -> Tensor:
    """Lattice of the template's own cell, (1, 3, 3) float64."""
    return lattice_matrix(
        torch.from_numpy(template.lengths)[None], torch.from_numpy(template.angles)[None]
    )
