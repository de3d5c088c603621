"""Losses are read in order, at once or late, and a run stops at the first that is no finite number."""

import math
from types import SimpleNamespace

import pytest
import torch

from noah.engine.step import Losses


def make(lag: int) -> tuple[Losses, SimpleNamespace]:
    state = SimpleNamespace(step=0, epoch_loss_sum=0.0, epoch_images=0)
    return Losses(SimpleNamespace(key="run"), state, lag), state


def feed(losses: Losses, state: SimpleNamespace, values: list[float]) -> None:
    for number, value in enumerate(values):
        losses.add(torch.tensor(value), 0.1 * (number + 1), images=4)
        state.step += 1


@pytest.mark.parametrize("lag", [0, 1])
def test_settled_sums_do_not_depend_on_the_lag(lag):
    losses, state = make(lag)
    feed(losses, state, [3.0, 2.0, 1.0])
    assert losses.latest == (2.0 if lag else 1.0)
    losses.settle()
    assert (losses.latest, state.epoch_loss_sum, state.epoch_images) == (1.0, 24.0, 12)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_the_step_the_rate_and_the_loss_until_then_are_named_whatever_the_lag(lag, bad):
    losses, state = make(lag)
    message = rf"run: loss is {bad} at step 3, learning rate 0\.3; mean loss of this epoch until then: 2\.5"
    with pytest.raises(FloatingPointError, match=message):
        feed(losses, state, [3.0, 2.0, bad, 1.0])
    assert state.step == 2 + lag


def test_a_bad_loss_that_still_waits_is_found_before_it_is_saved():
    losses, state = make(1)
    feed(losses, state, [3.0, math.nan])
    with pytest.raises(FloatingPointError, match="at step 2"):
        losses.settle()
