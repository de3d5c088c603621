"""The recipe's optimizer, rate and loss are what its YAML says."""

import math

import pytest
import torch
from torch import nn

from noah.config import Recipe
from noah.engine.optim import build_loss, build_optimizer, build_scheduler, set_lr, weight_decay_groups


def recipe(**fields) -> Recipe:
    return Recipe(**{"epochs": 10, "batch": 4, "lr": 0.1, **fields})


def rates(chosen: Recipe, steps_per_epoch: int = 5) -> list[float]:
    optimizer = build_optimizer(nn.Linear(2, 2), chosen)
    scheduler = build_scheduler(optimizer, chosen, steps_per_epoch)
    return [set_lr(optimizer, scheduler, step, steps_per_epoch) for step in range(chosen.epochs * steps_per_epoch)]


def test_milestones_are_epochs_of_the_whole_training_warm_up_or_not():
    measured = rates(recipe(schedule="step", milestones=(3, 6), warmup_epochs=2, warmup_lr=0.0))
    assert measured[:10] == pytest.approx([0.1 * step / 10 for step in range(10)])
    assert measured[10:] == pytest.approx([0.1] * 5 + [0.01] * 15 + [0.001] * 20)


def test_cosine_falls_from_peak_to_minimum_at_every_step():
    measured = rates(recipe(schedule="cosine", min_lr=0.01))
    expected = [0.01 + 0.09 * (1 + math.cos(math.pi * step / 50)) / 2 for step in range(50)]
    assert measured == pytest.approx(expected)


def test_cosine_per_epoch_changes_once_per_epoch():
    measured = rates(recipe(schedule="cosine", schedule_per_epoch=True))
    assert measured == pytest.approx([0.1 * (1 + math.cos(math.pi * (step // 5) / 10)) / 2 for step in range(50)])


def test_step_multiplies_at_the_milestones():
    measured = rates(recipe(schedule="step", milestones=(3, 6), schedule_per_epoch=True))
    assert measured == pytest.approx([0.1] * 15 + [0.01] * 15 + [0.001] * 20)


def test_linear_falls_in_a_straight_line():
    assert rates(recipe(schedule="linear")) == pytest.approx([0.1 * (1 - step / 50) for step in range(50)])


def test_constant_with_warmup_rises_then_stays():
    measured = rates(recipe(schedule="constant", warmup_epochs=1, warmup_lr=0.0))
    assert measured[:5] == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08])
    assert measured[5:] == pytest.approx([0.1] * 45)
    assert rates(recipe(schedule="constant")) == [0.1] * 50


def test_rate_is_a_function_of_the_step_so_a_resumed_run_needs_no_schedule_state():
    chosen = recipe(schedule="cosine", warmup_epochs=2)
    optimizer = build_optimizer(nn.Linear(2, 2), chosen)
    scheduler = build_scheduler(optimizer, chosen, 5)
    assert set_lr(optimizer, scheduler, 33, 5) == rates(chosen)[33]


def test_biases_and_norms_are_decayed_only_when_asked():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    some = weight_decay_groups(build_optimizer(model, recipe(weight_decay=0.1)))
    assert some == {"decayed": {"tensors": 1, "parameters": 15}, "not_decayed": {"tensors": 3, "parameters": 15}}
    everything = weight_decay_groups(build_optimizer(model, recipe(weight_decay=0.1, decay_1d=True)))
    assert everything["decayed"] == {"tensors": 4, "parameters": 30}


def test_sgd_is_plain_momentum_and_never_nesterov():
    (group, *_) = build_optimizer(nn.Linear(2, 2), recipe(momentum=0.8)).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.8, False)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fused_is_the_same_update_in_one_kernel(optimizer):
    weights, x = [], torch.randn(5, 4)
    for fused in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        chosen = build_optimizer(model, recipe(optimizer=optimizer, weight_decay=0.1, fused=fused))
        assert all(bool(group["fused"]) == fused for group in chosen.param_groups)
        for _ in range(5):
            model(x).square().sum().backward()
            chosen.step()
            chosen.zero_grad()
        weights.append(model.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_loss_takes_soft_targets_under_mixup_and_smooths_without():
    logits = torch.randn(4, 3)
    target = torch.tensor([0, 1, 2, 0])
    plain = nn.functional.cross_entropy(logits, target)
    smooth = nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    assert build_loss(recipe())(logits, target) == pytest.approx(plain.item())
    assert build_loss(recipe(label_smoothing=0.1))(logits, target).item() == pytest.approx(smooth.item())
    one_hot = nn.functional.one_hot(target, 3).float()
    assert build_loss(recipe(mixup=0.5))(logits, one_hot).item() == pytest.approx(plain.item())
