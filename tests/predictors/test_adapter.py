"""Models that know nothing of smoacs become predictors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from smoacs.crystals import N_ELEMENTS, CrystalBatch
from smoacs.predictors.adapter import ModulePredictor, SoftElements, mixed_elements
from smoacs.predictors.base import Predictor, Property
from smoacs.testing import PredictorError, check_predictor

PROPERTIES = (Property("hardness", "GPa", 0.0, 100.0), Property("density", "", 0.0, 1.0))
ELEMENTS = range(1, 60)


class Pairs(nn.Module):
    """Sum over the nearest images of all pairs, of vectors that belong to the elements."""

    def __init__(self, n_rows: int) -> None:
        super().__init__()
        self.species = nn.Embedding(n_rows, 2)
        images = torch.arange(-2.0, 3.0)
        self.register_buffer("images", torch.cartesian_prod(images, images, images))

    def forward(self, positions: Tensor, cell: Tensor, numbers: Tensor) -> Tensor:
        vectors = positions[None] - positions[:, None]
        vectors = vectors[:, :, None] + self.images @ cell
        weight = torch.exp(-(vectors**2).sum(-1)).sum(-1)
        atoms = self.species(numbers)
        return (atoms * (weight @ atoms)).mean(0)


class Soft(Pairs):
    """The same for distributions over elements."""

    def forward(self, positions: Tensor, cell: Tensor, composition: Tensor) -> Tensor:
        numbers = composition.argmax(1)
        with mixed_elements(self.species, composition, first=1):
            return super().forward(positions, cell, numbers)


def test_a_module_of_distributions_keeps_the_contract() -> None:
    predictor = ModulePredictor("mine", Soft(60), PROPERTIES, ELEMENTS)
    assert isinstance(predictor, Predictor)
    assert not any(p.requires_grad for p in predictor.network.parameters())
    check_predictor(predictor)


@pytest.mark.parametrize(("first", "n_rows"), [(0, 100), (0, 60), (1, 98), (1, 94), (2, 70)])
def test_a_module_of_atomic_numbers(
    rattled_crystals: CrystalBatch, first: int, n_rows: int
) -> None:
    class Numbers(Pairs):
        def forward(self, positions: Tensor, cell: Tensor, numbers: Tensor) -> Tensor:
            return super().forward(positions, cell, numbers - first)

    torch.manual_seed(0)
    module = Numbers(n_rows).double()
    soft = SoftElements(module, module.species, first=first)
    predictor = ModulePredictor("mine", soft, PROPERTIES, range(max(1, first), 60))
    check_predictor(predictor)
    hard = CrystalBatch(
        rattled_crystals.lattice,
        rattled_crystals.frac_coords,
        nn.functional.one_hot(rattled_crystals.atomic_numbers - 1, N_ELEMENTS).double(),
        rattled_crystals.ptr,
    )
    values = predictor.predict(hard)
    for number in range(3):
        one = hard.select([number])
        expected = module(one.cart_coords, one.lattice[0], one.atomic_numbers)
        found = torch.stack([values["hardness"][number], values["density"][number]])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_embedding_is_itself_again() -> None:
    module = Pairs(5)
    before = module.species(torch.tensor([1, 2]))
    with mixed_elements(module.species, torch.eye(98)[:3], first=1):
        inside = module.species(torch.tensor([0]))
    assert inside.shape == (3, 2)
    assert torch.equal(module.species(torch.tensor([1, 2])), before)


def test_what_is_no_embedding_cannot_be_mixed() -> None:
    with pytest.raises(TypeError, match=r"nn\.Embedding of elements, got Linear"):
        SoftElements(nn.Linear(2, 2), nn.Linear(98, 2))  # type: ignore[arg-type]


def test_a_module_with_other_numbers_is_refused(rattled_crystals: CrystalBatch) -> None:
    predictor = ModulePredictor("mine", Soft(60), PROPERTIES[:1], ELEMENTS)
    with pytest.raises(ValueError, match=r"mine gave 2 numbers for a crystal; it has 1"):
        predictor.predict(rattled_crystals)


def test_the_check_finds_a_module_that_ignores_the_cell() -> None:
    class Open(nn.Module):
        def forward(self, positions: Tensor, cell: Tensor, composition: Tensor) -> Tensor:
            return torch.stack([positions.norm(), composition[:, 7].sum()])

    with pytest.raises(PredictorError, match="hardness changes under"):
        check_predictor(ModulePredictor("open", Open(), PROPERTIES, ELEMENTS))
