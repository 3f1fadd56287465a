from __future__ import annotations

import numpy as np
import pytest
import torch

from smoacs.training.config import TargetConfig, load_config
from smoacs.training.data import load_crystals
from smoacs.training.graphs import PackedGraphs
from smoacs.training.loop import Trainer
from smoacs.training.networks import apply, new_network
from smoacs.training.scaling import TargetScale, mean_absolute_errors

TARGETS = (
    TargetConfig(name="energy", unit="eV"),
    TargetConfig(name="gap", unit="eV", minimum=0.0),
)
FEATURES = torch.eye(98)


def make_trainer(raw: dict, write_config) -> Trainer:
    config = load_config(write_config(raw))
    crystals = load_crystals(config)
    graphs = {
        split: PackedGraphs.build(
            crystals.select(np.flatnonzero(crystals.split == split)), config.graph.spec()
        )
        for split in ("train", "val")
    }
    return Trainer(config, graphs, FEATURES)


def run(trainer: Trainer, epochs: int) -> None:
    for _ in range(epochs):
        trainer.run_epoch(lambda: None)


def assert_same_state(a: torch.nn.Module, b: torch.nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_scale_ignores_missing_labels():
    targets = torch.tensor([[1.0, 2.0], [3.0, torch.nan], [torch.nan, 4.0], [5.0, torch.nan]])
    scale = TargetScale.of(targets, TARGETS)
    torch.testing.assert_close(scale.mean, torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(scale.std, torch.tensor([(8 / 3) ** 0.5, 1.0]))
    predictions = torch.tensor([[1.0, 5.0], [0.0, 9.0], [7.0, 4.0], [5.0, -9.0]])
    torch.testing.assert_close(mean_absolute_errors(predictions, targets), torch.tensor([1.0, 1.5]))


def test_weights_are_shares():
    targets = [TARGETS[0].model_copy(update={"weight": 3.0}), TARGETS[1]]
    scale = TargetScale.of(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), targets)
    assert scale.weight.tolist() == [0.75, 0.25]
    assert scale.score(torch.tensor([1.0, 4.0])) == pytest.approx(0.75 * 1.0 + 0.25 * 2.0)


def test_a_constant_target_does_not_divide_by_zero():
    assert TargetScale.of(torch.full((3, 2), 2.0), TARGETS).std.tolist() == [1.0, 1.0]


def test_loss_is_the_standardised_error_of_the_known_labels():
    scale = TargetScale(
        torch.tensor([1.0, 2.0]),
        torch.tensor([0.5, 4.0]),
        torch.tensor([-torch.inf, 0.0]),
        torch.tensor([0.75, 0.25]),
    )
    targets = torch.tensor([[2.0, torch.nan], [torch.nan, 6.0], [0.5, 0.0]])
    outputs = torch.tensor([[1.0, 50.0], [50.0, 0.0], [-2.0, -3.0]], requires_grad=True)
    loss = scale.loss(outputs, targets)
    energy = (abs(1.0 - (2.0 - 1.0) / 0.5) + abs(-2.0 - (0.5 - 1.0) / 0.5)) / 2
    gap = (abs(0.0 - (6.0 - 2.0) / 4.0) + 0.0) / 2  # below the bound at the bound: no error
    assert loss.item() == pytest.approx(0.75 * energy + 0.25 * gap)
    loss.backward()
    assert (outputs.grad != 0).tolist() == [[True, False], [False, True], [True, False]]


def test_loss_of_a_batch_without_labels_is_zero():
    scale = TargetScale.of(torch.tensor([[1.0, 2.0], [2.0, 3.0]]), TARGETS)
    outputs = torch.ones(3, 2, requires_grad=True)
    loss = scale.loss(outputs, torch.full((3, 2), torch.nan))
    loss.backward()
    assert loss.item() == 0.0
    assert not outputs.grad.any()


def test_predictions_are_clipped_at_the_bound():
    scale = TargetScale(
        torch.zeros(2), torch.ones(2), torch.tensor([-torch.inf, 0.0]), torch.full((2,), 0.5)
    )
    assert scale.to_units(torch.tensor([[-1.0, -1.0]])).tolist() == [[-1.0, 0.0]]


def test_missing_labels_do_not_change_the_training(raw_config, write_config):
    """A target's unlabelled crystals may hold anything; only the mask counts."""
    trainer = make_trainer(raw_config, write_config)
    batch = trainer.graphs["train"].batch(torch.arange(6))
    missing = batch.targets.isnan()
    assert missing.any()
    outputs = apply(trainer.model, batch, FEATURES)
    (gradient,) = torch.autograd.grad(trainer.scale.loss(outputs, batch.targets), outputs)
    assert torch.isfinite(gradient).all()
    assert (gradient[missing] == 0).all()


def test_overfits_a_handful_of_crystals(raw_config, write_config):
    raw_config |= {"epochs": 80, "batch_size": 4, "optimizer": {"learning_rate": 0.01}}
    trainer = make_trainer(raw_config, write_config)
    run(trainer, 80)
    graphs = trainer.graphs["train"]
    errors = mean_absolute_errors(trainer.predict(trainer.averaged, graphs), graphs.targets)
    assert (errors < 0.08 * trainer.scale.std).all()


def test_crystalformer_learns_with_the_scale_of_its_first_batch(crystalformer_config, write_config):
    crystalformer_config |= {
        "epochs": 120,
        "batch_size": 4,
        "optimizer": {"learning_rate": 0.005, "weight_decay": 1e-5},
    }
    trainer = make_trainer(crystalformer_config, write_config)
    run(trainer, 1)
    scales = [
        model.encoder.layers[0].self_attn.gauss_scale.clone()
        for model in (trainer.model, trainer.averaged, trainer.best)
    ]
    assert scales[0][0] > 0
    assert torch.equal(scales[0], scales[1])
    assert torch.equal(scales[0], scales[2])
    run(trainer, 119)
    graphs = trainer.graphs["train"]
    errors = mean_absolute_errors(trainer.predict(trainer.averaged, graphs), graphs.targets)
    assert (errors < 0.15 * trainer.scale.std).all()


@pytest.mark.parametrize("family", ["raw_config", "crystalformer_config"])
def test_resumed_run_gives_the_same_bits(family, request, write_config, tmp_path):
    raw_config = request.getfixturevalue(family)
    whole = make_trainer(raw_config, write_config)
    run(whole, 4)
    first = make_trainer(raw_config, write_config)
    run(first, 2)
    first.save(tmp_path)
    second = make_trainer(raw_config, write_config)
    second.restore(tmp_path)
    assert second.epoch == 2
    run(second, 2)
    for name in ("model", "averaged", "best"):
        assert_same_state(getattr(whole, name), getattr(second, name))
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in whole.history] == [
        {k: v for k, v in row.items() if k not in drop} for row in second.history
    ]
    assert second.finished


def test_seed_decides_the_result(raw_config, write_config):
    torch.rand(3)  # the global generator must not matter
    first, second = (make_trainer(raw_config, write_config) for _ in range(2))
    run(first, 1)
    torch.rand(5)
    run(second, 1)
    assert_same_state(first.model, second.model)
    other = new_network(load_config(write_config(raw_config | {"seed": 1})), 98)
    start = new_network(load_config(write_config(raw_config)), 98)
    assert not torch.equal(other.fc.weight, start.fc.weight)


def test_checkpoint_of_another_configuration_is_refused(raw_config, write_config, tmp_path):
    trainer = make_trainer(raw_config, write_config)
    trainer.save(tmp_path)
    other = make_trainer(raw_config | {"seed": 5, "epochs": 9}, write_config)
    with pytest.raises(ValueError, match="other values of epochs, seed"):
        other.restore(tmp_path)


def test_checkpoints_from_before_an_entry_existed_are_continued(raw_config, write_config, tmp_path):
    trainer = make_trainer(raw_config, write_config)
    run(trainer, 1)
    trainer.save(tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["config"]["model"]["family"], state["config"]["patience"]
    torch.save(state, tmp_path / "checkpoint.pt")
    again = make_trainer(raw_config, write_config)
    again.restore(tmp_path)
    assert again.epoch == 1
    other = make_trainer(raw_config | {"patience": 7}, write_config)
    with pytest.raises(ValueError, match="other values of patience"):
        other.restore(tmp_path)


def test_early_stopping_and_best_weights(raw_config, write_config):
    raw_config |= {"epochs": 50, "patience": 2, "optimizer": {"learning_rate": 1e-9}}
    trainer = make_trainer(raw_config, write_config)
    trainer.best_score, trainer.best_epoch = 0.0, 1  # nothing can be better
    before = {key: value.clone() for key, value in trainer.best.state_dict().items()}
    run(trainer, 2)
    assert not trainer.finished
    run(trainer, 1)
    assert trainer.finished
    assert all(torch.equal(value, before[key]) for key, value in trainer.best.state_dict().items())


def test_exported_network_predicts_in_units(raw_config, write_config):
    trainer = make_trainer(raw_config, write_config)
    run(trainer, 1)
    graphs = trainer.graphs["val"]
    outputs = apply(trainer.export(), graphs.batch(torch.arange(len(graphs))), FEATURES).detach()
    outputs[:, 1] = outputs[:, 1].clamp_min(0.0)
    torch.testing.assert_close(outputs, trainer.predict(trainer.best, graphs))


def test_diverging_training_says_so(raw_config, write_config):
    trainer = make_trainer(raw_config, write_config)
    with torch.no_grad():
        trainer.model.fc.bias.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"training loss became (inf|nan) in epoch 1"):
        run(trainer, 1)
