"""Checks that anyone who writes a predictor can run on it.

>>> from smoacs.testing import check_predictor
>>> check_predictor(MyPredictor())
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smoacs.crystals import N_ELEMENTS, CrystalBatch
from smoacs.predictors.base import Graph, GraphSpec, Predictor, Property

_COMMON = (11, 17, 8, 14, 22, 38, 26, 16)
_MEMBERS = ("name", "properties", "graph", "elements", "predict", "to")
_VARIABLES = ("composition", "frac_coords", "lattice")


class PredictorError(AssertionError):
    """A predictor breaks the contract of :class:`smoacs.predictors.base.Predictor`."""


@dataclass(frozen=True)
class _Precision:
    """What agreement to ask for: (relative, absolute) of values and of slopes.

    Slopes must agree for one of the steps: piecewise linear activations need a small one, which
    seldom meets a bend, and outputs with rounding errors a large one.
    """

    dtype: torch.dtype
    values: tuple[float, float]
    slopes: tuple[float, float]
    steps: tuple[float, ...]


_SINGLE = _Precision(torch.float32, values=(1e-4, 1e-4), slopes=(3e-2, 3e-3), steps=(1e-2,))
_DOUBLE = _Precision(torch.float64, values=(1e-9, 1e-9), slopes=(1e-6, 1e-8), steps=(1e-3, 1e-6))


def check_predictor(
    predictor: Predictor,
    *,
    extensive: Collection[str] = (),
    batch_tolerance: float = 0.0,
    seed: int = 0,
) -> None:
    """Check a predictor on small crystals made of its own elements, on the CPU.

    Checked are what it declares; names, shapes and finiteness of what it returns; that values do
    not change under rotation, translation, permutation of sites, shifts of sites by lattice
    vectors and doubling of the cell; that gradients with respect to composition, coordinates and
    lattice agree with finite differences; that a crystal's values and gradients do not depend on
    its batch; that a crystal that is not finite leaves the others alone. The comparisons are made
    in double precision if the predictor's ``to`` takes a ``dtype``.

    Parameters
    ----------
    predictor : Predictor
        Stays unchanged.
    extensive : collection of str
        Properties that double with the cell.
    batch_tolerance : float
        Greatest difference between a crystal's value alone and in a batch; 0 asks for equality
        to the last bit, which :mod:`smoacs.predictors.layers` helps to reach.
    seed : int
        Of the random crystals.

    Raises
    ------
    PredictorError
        Says which check failed and by how much.
    """
    _check_declarations(predictor)
    predictor, precision = _most_precise(predictor)
    generator = torch.Generator().manual_seed(seed)
    crystals = _crystals(predictor, generator).to(dtype=precision.dtype)
    _check_outputs(predictor, crystals)
    _check_invariances(predictor, crystals, extensive, precision, generator)
    _check_gradients(predictor, crystals, precision, generator)
    _check_batch_independence(predictor, crystals, batch_tolerance)
    _check_isolation(predictor, crystals, batch_tolerance)


def _check_declarations(predictor: Predictor) -> None:
    lacking = [name for name in _MEMBERS if not hasattr(predictor, name)]
    if lacking:
        raise PredictorError(
            f"{type(predictor).__name__} lacks {', '.join(lacking)}; a predictor has "
            f"{', '.join(_MEMBERS)}"
        )
    if not predictor.name:
        raise PredictorError("the predictor has no name")
    names = [p.name for p in predictor.properties if isinstance(p, Property)]
    if not names or len(names) != len(predictor.properties):
        raise PredictorError(f"{predictor.name}: properties must be a tuple of Property")
    if len(set(names)) != len(names):
        raise PredictorError(f"{predictor.name}: properties {names} are not unique")
    for p in predictor.properties:
        if not p.low < p.high:
            raise PredictorError(f"{predictor.name}: {p.name} has the range {p.low} to {p.high}")
    if predictor.graph is not None and not isinstance(predictor.graph, GraphSpec):
        raise PredictorError(f"{predictor.name}: graph must be a GraphSpec or None")
    if not predictor.elements or not predictor.elements <= set(range(1, N_ELEMENTS + 1)):
        raise PredictorError(
            f"{predictor.name}: elements must be atomic numbers, 1 to {N_ELEMENTS}"
        )


def _most_precise(predictor: Predictor) -> tuple[Predictor, _Precision]:
    """A copy in double precision where the predictor offers that, else in single."""
    moved = copy.deepcopy(predictor).to("cpu")
    if not isinstance(moved, Predictor):
        raise PredictorError(
            f"{predictor.name}: to must return the predictor, got {type(moved).__name__}"
        )
    try:
        return moved.to("cpu", dtype=torch.float64), _DOUBLE  # type: ignore[call-arg]
    except TypeError:
        return moved, _SINGLE


def _crystals(predictor: Predictor, generator: torch.Generator) -> CrystalBatch:
    """Skewed, rattled cells of mixed elements without any symmetry.

    The last is close to rock salt: mixtures are metals, whose band gap of 0 would tell nothing.
    """
    known = [z for z in _COMMON if z in predictor.elements] or sorted(predictor.elements)[:8]

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.5

    lattices, coords, rows = [], [], []
    # Cells so large that images of one site lie beyond the nearest neighbours.
    grids = ((2, 2, 2), (2, 3, 2), (2, 2, 3), (2, 2, 2))
    for grid in grids:
        size = torch.tensor(grid, dtype=torch.float64)
        lattices.append(torch.diag(2.8 * size) + 0.8 * rand(3, 3))
        points = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) / n for n in grid))
        coords.append(points + 0.25 * rand(*points.shape) / size)
        mixture = torch.zeros(len(points), N_ELEMENTS, dtype=torch.float64)
        for row in mixture:
            weights = (4 * rand(len(known))).exp()
            row[torch.tensor(known) - 1] = weights / weights.sum()
        rows.append(mixture)
    salt = torch.nn.functional.one_hot(
        torch.tensor(known[:2])[points.mul(size).sum(1).long() % 2] - 1, N_ELEMENTS
    )
    rows[-1] = 0.95 * salt + 0.05 * rows[-1]
    ptr = torch.tensor([0, *(len(c) for c in coords)]).cumsum(0)
    return CrystalBatch(torch.stack(lattices), torch.cat(coords), torch.cat(rows), ptr)


def _predict(
    predictor: Predictor, crystals: CrystalBatch, graph: Graph | None = None
) -> Mapping[str, Tensor]:
    if graph is None and predictor.graph is not None:
        graph = Graph.build(crystals, predictor.graph)
    return predictor.predict(crystals, graph)


def _check_outputs(predictor: Predictor, crystals: CrystalBatch) -> None:
    try:
        values = _predict(predictor, crystals)
    except Exception as error:
        raise PredictorError(
            f"{predictor.name}: predict failed for crystals of elements "
            f"{sorted(int(z) + 1 for z in crystals.composition.sum(0).nonzero())}: {error!r}"
        ) from error
    names = [p.name for p in predictor.properties]
    if not isinstance(values, Mapping) or not all(isinstance(v, Tensor) for v in values.values()):
        raise PredictorError(f"{predictor.name}: predict must return tensors by property name")
    if sorted(values) != sorted(names):
        raise PredictorError(f"{predictor.name} returns {sorted(values)}, but declares {names}")
    for name, value in values.items():
        if value.shape != (len(crystals),) or not value.is_floating_point():
            raise PredictorError(
                f"{predictor.name}: {name} of {len(crystals)} crystals must be a floating-point "
                f"tensor of shape ({len(crystals)},), got {value.dtype} of {tuple(value.shape)}"
            )
        if not torch.isfinite(value).all():
            raise PredictorError(f"{predictor.name}: {name} of sane crystals is {value.tolist()}")


def _check_invariances(
    predictor: Predictor,
    crystals: CrystalBatch,
    extensive: Collection[str],
    precision: _Precision,
    generator: torch.Generator,
) -> None:
    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(precision.dtype)

    rotation = torch.linalg.qr(rand(3, 3) - 0.5).Q
    rotation = rotation * torch.linalg.det(rotation)
    order = torch.cat(
        [
            start + torch.randperm(int(stop - start), generator=generator)
            for start, stop in zip(crystals.ptr[:-1], crystals.ptr[1:], strict=True)
        ]
    )
    images = torch.floor(5 * rand(*crystals.frac_coords.shape)) - 2
    transformed = {
        "rotation": replace(crystals, lattice=crystals.lattice @ rotation),
        "translation": replace(crystals, frac_coords=crystals.frac_coords + rand(3)),
        "permutation of the sites": replace(
            crystals,
            frac_coords=crystals.frac_coords[order],
            composition=crystals.composition[order],
        ),
        "shifts of sites by lattice vectors": replace(
            crystals, frac_coords=crystals.frac_coords + images
        ),
        "doubling of the cell": _doubled(crystals),
    }
    before = _predict(predictor, crystals)
    for what, moved in transformed.items():
        for name, after in _predict(predictor, moved).items():
            doubled = what.startswith("doubling")
            factor = 2 if doubled and name in extensive else 1
            hint = " (extensive properties must be named as such)" if doubled else ""
            _compare(
                f"{predictor.name}: {name} changes under {what}{hint}",
                factor * before[name],
                after,
                precision.values,
            )


def _doubled(crystals: CrystalBatch) -> CrystalBatch:
    """Supercells 2 x 1 x 1."""
    stretch = crystals.lattice.new_tensor([2.0, 1.0, 1.0])
    half = crystals.frac_coords / stretch
    shift = half.new_tensor([0.5, 0.0, 0.0])
    return CrystalBatch(
        crystals.lattice * stretch[:, None],
        torch.stack([half, half + shift], dim=1).flatten(0, 1),
        crystals.composition.repeat_interleave(2, dim=0),
        2 * crystals.ptr,
    )


def _check_gradients(
    predictor: Predictor,
    crystals: CrystalBatch,
    precision: _Precision,
    generator: torch.Generator,
) -> None:
    graph = Graph.build(crystals, predictor.graph) if predictor.graph else None
    directions = _directions(crystals, generator)
    gradients = _gradients(predictor, crystals, graph)
    others = _predict(predictor, _with_other_elements(crystals), graph)
    values = _predict(predictor, crystals, graph)
    for p in predictor.properties:
        if not gradients[p.name]["composition"].any() and (values[p.name] != others[p.name]).any():
            raise PredictorError(
                f"{predictor.name}: {p.name} depends on the elements but has no gradient with "
                "respect to composition, so that no design can choose elements by it (see "
                "smoacs.predictors.SoftElements)"
            )
        for variable in _VARIABLES:

            def along(distance: float, name: str = p.name, variable: str = variable) -> Tensor:
                value = getattr(crystals, variable) + distance * directions[variable]
                moved = replace(crystals, **{variable: value})
                return _predict(predictor, moved, graph)[name].detach()

            slopes = gradients[p.name][variable] * directions[variable]
            if variable == "lattice":
                slope = slopes.sum((1, 2))
            else:
                slope = slopes.new_zeros(len(crystals)).index_add(
                    0, crystals.crystal_index, slopes.sum(1)
                )
            differences = torch.stack([_slope(along, step) for step in precision.steps])
            nearest = (differences - slope).abs().argmin(0, keepdim=True)
            _compare(
                f"{predictor.name}: the gradient of {p.name} with respect to {variable} differs "
                "from finite differences",
                differences.gather(0, nearest)[0],
                slope,
                precision.slopes,
            )


def _with_other_elements(crystals: CrystalBatch) -> CrystalBatch:
    """Every element that occurs replaced by the next one that does."""
    present = crystals.composition.sum(0).nonzero()[:, 0]
    composition = crystals.composition.clone()
    composition[:, present] = composition[:, present.roll(1)]
    return replace(crystals, composition=composition)


def _directions(crystals: CrystalBatch, generator: torch.Generator) -> dict[str, Tensor]:
    """A random direction per variable; compositions stay normalised and non-negative."""

    def rand_like(x: Tensor) -> Tensor:
        return (torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5).to(x.dtype)

    exchange = crystals.composition * rand_like(crystals.composition)
    exchange = exchange - crystals.composition * exchange.sum(1, keepdim=True)
    return {
        "composition": exchange,
        "frac_coords": 0.1 * rand_like(crystals.frac_coords),
        "lattice": rand_like(crystals.lattice),
    }


def _slope(function: Callable[[float], Tensor], step: float) -> Tensor:
    """Fourth-order central difference at 0."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def _gradients(
    predictor: Predictor, crystals: CrystalBatch, graph: Graph | None
) -> dict[str, dict[str, Tensor]]:
    """Gradient of the sum over crystals, by property and variable."""
    leaves = {
        variable: getattr(crystals, variable).detach().requires_grad_() for variable in _VARIABLES
    }
    values = _predict(predictor, replace(crystals, **leaves), graph)
    result = {}
    for p in predictor.properties:
        if not values[p.name].requires_grad:
            raise PredictorError(f"{predictor.name}: {p.name} is not differentiable")
        gradients = torch.autograd.grad(
            values[p.name].sum(),
            list(leaves.values()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        result[p.name] = dict(zip(_VARIABLES, gradients, strict=True))
    return result


def _check_batch_independence(
    predictor: Predictor, crystals: CrystalBatch, tolerance: float
) -> None:
    # Enough copies for the batch to be computed in other blocks than one crystal.
    numbers = list(range(len(crystals)))
    many = crystals.select(7 * numbers)
    values = _predict(predictor, many)
    gradients = _gradients(predictor, many, None)
    for number in numbers:
        alone = crystals.select([number])
        sites = slice(int(many.ptr[number]), int(many.ptr[number + 1]))
        alone_values, alone_gradients = (
            _predict(predictor, alone),
            _gradients(predictor, alone, None),
        )
        for p in predictor.properties:
            _compare_batches(
                f"{predictor.name}: {p.name}",
                values[p.name][number : number + 1],
                alone_values[p.name],
                tolerance,
            )
            for variable in _VARIABLES:
                rows = slice(number, number + 1) if variable == "lattice" else sites
                _compare_batches(
                    f"{predictor.name}: the gradient of {p.name} with respect to {variable}",
                    gradients[p.name][variable][rows],
                    alone_gradients[p.name][variable],
                    tolerance,
                )


def _check_isolation(predictor: Predictor, crystals: CrystalBatch, tolerance: float) -> None:
    graph = Graph.build(crystals, predictor.graph) if predictor.graph else None
    before = _predict(predictor, crystals, graph)
    gradients = _gradients(predictor, crystals, graph)
    coords = crystals.frac_coords.clone()
    coords[int(crystals.ptr[1]) : int(crystals.ptr[2])] = torch.nan
    broken = replace(crystals, frac_coords=coords)
    after = _predict(predictor, broken, graph)
    broken_gradients = _gradients(predictor, broken, graph)
    others = torch.tensor([number != 1 for number in range(len(crystals))])
    for p in predictor.properties:
        what = f"{predictor.name}: with a crystal in the batch that is not finite, {p.name}"
        _compare_batches(what, before[p.name][others], after[p.name][others], tolerance)
        for variable in _VARIABLES:
            rows = others if variable == "lattice" else others[crystals.crystal_index]
            _compare_batches(
                f"{what}'s gradient with respect to {variable}",
                gradients[p.name][variable][rows],
                broken_gradients[p.name][variable][rows],
                tolerance,
            )


def _compare_batches(what: str, batch: Tensor, alone: Tensor, tolerance: float) -> None:
    difference = float((batch - alone).detach().abs().max())
    if not difference <= tolerance:
        raise PredictorError(
            f"{what} of a crystal depends on the rest of its batch: it differs by "
            f"{difference:.3g}, {tolerance:g} is allowed (batch_tolerance)"
        )


def _compare(what: str, expected: Tensor, found: Tensor, tolerance: tuple[float, float]) -> None:
    expected, found = expected.detach(), found.detach()
    relative, absolute = tolerance
    allowed = max(absolute, relative * float(expected.abs().max()))
    difference = float((expected - found).abs().max())
    if not difference <= allowed:
        raise PredictorError(
            f"{what}: {found.tolist()} instead of {expected.tolist()}, a difference of "
            f"{difference:.3g}, {allowed:.3g} is allowed"
        )
