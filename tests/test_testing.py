"""check_predictor accepts a right predictor and names what is wrong with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from smoacs.crystals import CrystalBatch
from smoacs.ops import edge_vectors
from smoacs.predictors.base import Graph, GraphSpec, Property
from smoacs.testing import PredictorError, check_predictor


class Springs:
    """Mean over the atoms of a function of their bonds and elements."""

    name = "springs"
    properties: tuple[Property, ...] = (Property("energy", "eV", -10.0, 10.0),)
    graph: GraphSpec | None = GraphSpec(cutoff=4.0)
    elements = frozenset(range(1, 93))

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        vectors = edge_vectors(crystals.frac_coords, crystals.lattice, graph.neighbors)
        x, y, z = vectors.unbind(1)
        charge = (crystals.composition / torch.arange(1, 99).to(vectors.dtype)).sum(1)
        squares = x * x + y * y + z * z
        src, dst = graph.neighbors.src, graph.neighbors.dst
        bonds = torch.exp(-squares / 4) * charge[src] * charge[dst]
        energy = torch.zeros_like(charge).index_add(0, src, bonds) + charge
        total = energy.new_zeros(len(crystals)).index_add(0, crystals.crystal_index, energy)
        return {"energy": total / crystals.n_sites}

    def to(self, device: str, dtype: torch.dtype | None = None) -> Springs:
        return self


class SingleOnly(Springs):
    def to(self, device: str) -> Springs:  # type: ignore[override]
        return self


@pytest.mark.parametrize("predictor", [Springs(), SingleOnly()])
def test_right_predictors_pass(predictor: Springs) -> None:
    check_predictor(predictor, batch_tolerance=1e-6)


class Bent(Springs):
    """Piecewise linear in many variables, as networks with ReLU are."""

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        energy = super().predict(crystals, graph)["energy"]
        bends = torch.linspace(-1, 3, 3000, dtype=energy.dtype)
        return {"energy": (energy[:, None] - bends).relu().mean(1)}


def test_bends_are_no_wrong_gradients() -> None:
    check_predictor(Bent(), batch_tolerance=1e-6)


class Extensive(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        return {"energy": super().predict(crystals, graph)["energy"] * crystals.n_sites}


def test_extensive_properties_are_declared_as_such() -> None:
    check_predictor(Extensive(), extensive=["energy"], batch_tolerance=1e-6)
    with pytest.raises(PredictorError, match="energy changes under doubling"):
        check_predictor(Extensive())


class Nameless(Springs):
    name = ""


class WrongRange(Springs):
    properties = (Property("energy", "eV", 1.0, 1.0),)


class Twice(Springs):
    properties = Springs.properties * 2


class Aliens(Springs):
    elements = frozenset({1, 119})


class OtherColumn(Springs):
    properties = (Property("band_gap", "eV", 0.0, 9.0),)


class WrongShape(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        return {"energy": super().predict(crystals, graph)["energy"][:, None]}


class Infinite(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        return {"energy": 1 / (0 * super().predict(crystals, graph)["energy"])}


class Oriented(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        return {"energy": super().predict(crystals, graph)["energy"] + crystals.lattice[:, 0, 0]}


class Positioned(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        first = crystals.cart_coords[crystals.ptr[:-1]].norm(dim=1)
        return {"energy": super().predict(crystals, graph)["energy"] + 0 * first + first.detach()}


class Ordered(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        first = crystals.composition[crystals.ptr[:-1], 7]
        return {"energy": super().predict(crystals, graph)["energy"] + first}


class Detached(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        return {"energy": super().predict(crystals, graph)["energy"].detach()}


class HalfDetached(Springs):
    """Forgets that bonds depend on the lattice."""

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        return super().predict(replace(crystals, lattice=crystals.lattice.detach()), graph)


class Normalised(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        return {"energy": super().predict(crystals, graph)["energy"] * (1 + 1e-3 * len(crystals))}


class Lost(Springs):
    def to(self, device: str, dtype: torch.dtype | None = None) -> Springs:
        return None  # type: ignore[return-value]


class Failing(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        raise KeyError("Si")


class Bare(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        return super().predict(crystals, graph)["energy"]  # type: ignore[return-value]


class Decided(Springs):
    """Takes the most probable elements."""

    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        hard = torch.nn.functional.one_hot(crystals.atomic_numbers - 1, 98)
        hard = hard.to(crystals.composition.dtype)
        return super().predict(replace(crystals, composition=hard), graph)


class Incomplete:
    name = "incomplete"
    graph = None


class Contagious(Springs):
    def predict(self, crystals: CrystalBatch, graph: Graph | None) -> Mapping[str, Tensor]:
        energy = super().predict(crystals, graph)["energy"]
        return {"energy": energy + 0 * energy.detach().sum()}


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (object(), "object lacks name, properties, graph, elements, predict, to; a predictor has"),
        (Incomplete(), "Incomplete lacks properties, elements, predict, to;"),
        (Lost(), "to must return the predictor, got NoneType"),
        (Failing(), r"predict failed for crystals of elements .*14.*KeyError\('Si'\)"),
        (Bare(), "predict must return tensors by property name"),
        (Decided(), "energy depends on the elements but has no gradient"),
        (Nameless(), "no name"),
        (WrongRange(), "energy has the range 1.0 to 1.0"),
        (Twice(), "not unique"),
        (Aliens(), "atomic numbers, 1 to 98"),
        (OtherColumn(), r"returns \['energy'\], but declares \['band_gap'\]"),
        (WrongShape(), r"shape \(4,\), got torch.float64 of \(4, 1\)"),
        (Infinite(), "energy of sane crystals is"),
        (Oriented(), "energy changes under rotation"),
        (Positioned(), "energy changes under translation"),
        (Ordered(), "energy changes under permutation"),
        (Detached(), "energy is not differentiable"),
        (HalfDetached(), "gradient of energy with respect to lattice differs"),
        (Normalised(), "energy of a crystal depends on the rest of its batch"),
        (Contagious(), "not finite, energy of a crystal depends"),
    ],
)
def test_wrong_predictors_are_told_what_is_wrong(predictor: Springs, message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        check_predictor(predictor, batch_tolerance=1e-6)
