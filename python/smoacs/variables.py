"""The variables of the candidates, and the crystals they stand for (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from smoacs.crystals import CrystalBatch, ragged_rows
from smoacs.ops import masked_softmax
from smoacs.templates import DesignSpace

_ANGLE_MIN, _ANGLE_RANGE = 30.0, 120.0


@dataclass(frozen=True)
class Variables:
    """What is optimised, for C candidates with S sites.

    Attributes
    ----------
    lengths : Tensor (C, 3)
        Lattice lengths divided by ``length_scale``, so that all variables share a scale.
    angles : Tensor (C, 3)
        (angle - 30°) / 120°.
    frac_coords : Tensor (S, 3)
        Fractional coordinates, unwrapped.
    element_logits : Tensor (S, 98)
        Logits a of the elements.
    pattern_logits : Tensor (C, K)
        Logits w of the oxidation patterns; -inf where a template has fewer patterns.
    length_scale : Tensor (C,)
        Largest initial length in Å. It belongs to the candidate for life: redefining it while the
        lengths keep the old one would stretch the cell.
    """

    lengths: Tensor
    angles: Tensor
    frac_coords: Tensor
    element_logits: Tensor
    pattern_logits: Tensor
    length_scale: Tensor

    PER_SITE = ("frac_coords", "element_logits")

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of every variable."""
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    def select(self, candidates: Tensor, ptr: Tensor) -> Variables:
        """The variables of some candidates (n,), differentiably; ``ptr`` are all sites' offsets."""
        sites, _ = ragged_rows(ptr, candidates)
        return self.take(candidates, sites)

    def take(self, candidates: Tensor, sites: Tensor) -> Variables:
        """The same, given the numbers of these candidates' sites, (R,) int64."""
        return Variables(
            **{
                name: value[sites if name in self.PER_SITE else candidates]
                for name, value in self.items()
            }
        )

    def where(self, candidates: Tensor, other: Variables, ptr: Tensor) -> Variables:
        """These variables, with those of ``other`` where ``candidates`` (C,) bool says so."""
        sites = torch.repeat_interleave(
            candidates, ptr.diff(), output_size=self.frac_coords.shape[0]
        )
        return Variables(
            **{
                name: torch.where(
                    (sites if name in self.PER_SITE else candidates).reshape(
                        -1, *[1] * (value.dim() - 1)
                    ),
                    getattr(other, name),
                    value,
                )
                for name, value in self.items()
            }
        )

    def lengths_angstrom(self) -> Tensor:
        """Lattice lengths in Å, (C, 3)."""
        return self.lengths * self.length_scale[:, None]

    def angles_degree(self) -> Tensor:
        """Lattice angles in degrees, (C, 3)."""
        return self.angles * _ANGLE_RANGE + _ANGLE_MIN

    def lattice(self) -> Tensor:
        """Lattice vectors in Å, (C, 3, 3)."""
        return lattice_matrix(self.lengths_angstrom(), self.angles_degree())


def normalise_angles(degrees: Tensor) -> Tensor:
    """Angle variables of angles in degrees."""
    return (degrees - _ANGLE_MIN) / _ANGLE_RANGE


def lattice_matrix(lengths: Tensor, angles: Tensor) -> Tensor:
    """Lattice vectors as rows, a along x and b in the xy plane.

    Parameters
    ----------
    lengths : Tensor (C, 3)
        In Å.
    angles : Tensor (C, 3)
        In degrees. Angles that span no cell give NaN.

    Returns
    -------
    Tensor (C, 3, 3)
    """
    cosines = torch.cos(torch.deg2rad(angles))
    cos_a, cos_b, cos_g = cosines.unbind(1)
    sin_g = torch.sin(torch.deg2rad(angles[:, 2]))
    c_y = (cos_a - cos_b * cos_g) / sin_g
    c_z = torch.sqrt(1 - cos_b**2 - c_y**2)
    zero, one = torch.zeros_like(cos_a), torch.ones_like(cos_a)
    rows = torch.stack([one, zero, zero, cos_g, sin_g, zero, cos_b, c_y, c_z], dim=1)
    return rows.reshape(-1, 3, 3) * lengths[:, :, None]


def soft_crystals(
    variables: Variables, space: DesignSpace, temperature: float, masking: str
) -> tuple[CrystalBatch, Tensor]:
    """Crystals whose sites hold distributions, and the pattern weights q (C, K); eqs 4-5."""
    composition, weights = masked_softmax(
        variables.element_logits,
        variables.pattern_logits,
        space.packed_mask,
        space.ptr,
        temperature,
        masking=masking,
    )
    return crystals_of(variables, space, composition), weights


def discrete_choice(variables: Variables, space: DesignSpace) -> tuple[Tensor, Tensor]:
    """The most probable pattern, then the most probable element that it allows.

    Charge neutral by construction.

    Returns
    -------
    composition : Tensor (S, 98)
        One-hot.
    pattern_weights : Tensor (C, K)
        One-hot.
    """
    pattern = variables.pattern_logits.argmax(dim=1)
    allowed = space.allowed_under(pattern)
    logits = variables.element_logits.masked_fill(~allowed, float("-inf"))
    composition = torch.zeros_like(logits).scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)
    weights = torch.zeros_like(variables.pattern_logits).scatter_(1, pattern[:, None], 1.0)
    return composition, weights


def discrete_crystals(variables: Variables, space: DesignSpace) -> tuple[CrystalBatch, Tensor]:
    """Crystals with one element per site, and one-hot pattern weights (C, K)."""
    composition, weights = discrete_choice(variables, space)
    return crystals_of(variables, space, composition), weights


def crystals_of(variables: Variables, space: DesignSpace, composition: Tensor) -> CrystalBatch:
    """Crystals of the variables' geometry and of a composition (S, 98)."""
    return CrystalBatch(variables.lattice(), variables.frac_coords, composition, space.ptr)


def project(variables: Variables, space: DesignSpace) -> Variables:
    """Nearest variables inside the limits, with the lattice in its crystal family.

    The lattice metric is averaged over the point group of the template's lattice: linear, exact,
    and right for any setting of the cell.
    """
    lengths = variables.lengths_angstrom().clamp(
        space.length_bounds[:, 0], space.length_bounds[:, 1]
    )
    angles = variables.angles_degree().clamp(space.angle_bounds[:, 0], space.angle_bounds[:, 1])
    lattice = lattice_matrix(lengths, angles)
    metric = lattice @ lattice.mT
    rotations = space.rotations
    metric = (rotations.mT @ metric[:, None] @ rotations).mean(1)
    lengths = metric.diagonal(dim1=1, dim2=2).sqrt()
    cosines = torch.stack([metric[:, 1, 2], metric[:, 0, 2], metric[:, 0, 1]], dim=1)
    angles = torch.rad2deg(
        torch.acos((cosines * lengths / lengths.prod(1, keepdim=True)).clamp(-1, 1))
    )
    ideal, limit = space.frac_coords, space.coord_limits
    return replace(
        variables,
        lengths=lengths / variables.length_scale[:, None],
        angles=normalise_angles(angles),
        frac_coords=variables.frac_coords.clamp(ideal - limit, ideal + limit),
    )
