"""What the bundled families have in common on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from host_waits import HostWaits
from smoacs.crystals import CrystalBatch
from smoacs.predictors import crystalformer, load
from smoacs.predictors.base import Graph, Predictor
from smoacs.predictors.crystalformer_attention import attention_in_blocks

MODELS = ("smoacs-alignn-mp", "smoacs-crystalformer-mp")


def gradients(predictor: Predictor, crystals: CrystalBatch) -> list[Tensor]:
    """Predictions, and their gradients by lattice and coordinates."""
    leaves = [x.clone().requires_grad_() for x in (crystals.lattice, crystals.frac_coords)]
    moved = replace(crystals, lattice=leaves[0], frac_coords=leaves[1])
    assert predictor.graph is not None
    graph = Graph.build(moved, predictor.graph)
    values = torch.stack(list(predictor.predict(moved, graph).values()))
    return [values.detach(), *torch.autograd.grad(values.sum(), leaves)]


@pytest.mark.parametrize(("model", "waits"), [(MODELS[0], 0), (MODELS[1], 4)])
def test_a_prediction_waits_for_sizes_only(
    rattled_crystals: CrystalBatch, monkeypatch: pytest.MonkeyPatch, model: str, waits: int
) -> None:
    monkeypatch.setattr(crystalformer, "attention_to", attention_in_blocks)  # as on a GPU
    predictor, crystals = load(model), rattled_crystals.to(dtype=torch.float32)
    with HostWaits() as seen:
        gradients(predictor, crystals)
    assert seen.places.total() == seen.places["predictors.crystalformer_slots._counted"] == waits


@pytest.mark.cuda
@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_repeats_itself(rattled_crystals: CrystalBatch, model: str) -> None:
    crystals = rattled_crystals.select([n % 12 for n in range(240)]).to("cuda", torch.float32)
    predictor = load(model).to("cuda")
    first = gradients(predictor, crystals)
    for _ in range(3):
        assert all(map(torch.equal, gradients(predictor, crystals), first))
