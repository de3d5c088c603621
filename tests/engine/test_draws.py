"""What a step draws depends on the run and the step, never on how its forward batches are dealt to processes."""

import contextlib

import pytest
import torch
from torch import nn

from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.engine.distributed import World
from noah.engine.state import TrainState
from noah.engine.step import Losses, stepper

DRAWS = {
    "mixup": {"mixup": 0.8},
    "cutmix": {"cutmix": 1.0},
    "erasing": {"random_erasing": 0.9},
    "dropout": {},
}


class Recorder(nn.Module):
    """Keeps the images it gets, and what dropout would draw."""

    def __init__(self):
        super().__init__()
        self.bias, self.seen = nn.Parameter(torch.zeros(10)), []

    no_sync = contextlib.nullcontext

    def forward(self, images):
        self.seen.append((images.clone(), torch.rand(4)))
        return self.bias.expand(len(images), 10)


def forward_batches(run, shards, world_size: int, step: int = 3) -> list[tuple]:
    """Those of one step by their number, whichever process has them."""
    by_number = {}
    for rank in range(world_size):
        model, place = Recorder(), World(rank, world_size, torch.device("cpu"))
        state = TrainState(model, torch.optim.SGD(model.parameters(), 0.1), step=step)
        batches = list(train_loader(shards, run, 0, rank=rank, world_size=world_size))
        torch.manual_seed(rank)  # whatever was drawn before
        group = batches[: run.recipe.passes(world_size)]
        stepper(run, model, state, place, Losses(run, state, lag=0))(group, 0.1)
        by_number |= {number * world_size + rank: seen for number, seen in enumerate(model.seen)}
    return [by_number[number] for number in sorted(by_number)]


@pytest.fixture
def shards(tiny_shards):
    return Shards(tiny_shards / "tiny" / "train")


@pytest.mark.parametrize("kind", DRAWS)
def test_forward_batches_are_the_same_at_any_number_of_processes(shards, make_run, kind):
    run = make_run(batch=16, micro_batch=4, **DRAWS[kind])
    alone = forward_batches(run, shards, 1)
    assert len(alone) == 4
    for world_size in (2, 4):
        for one, other in zip(alone, forward_batches(run, shards, world_size), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    plain = forward_batches(make_run(batch=16, micro_batch=4), shards, 1)
    same = [torch.equal(one[0], other[0]) for one, other in zip(alone, plain, strict=True)]
    assert not any(same) or kind == "dropout"


def test_every_step_and_every_forward_batch_draws_dropout_anew(shards, make_run):
    run = make_run(batch=16, micro_batch=4)
    drawn = [tuple(rand.tolist()) for step in (0, 1) for _, rand in forward_batches(run, shards, 1, step)]
    assert len(set(drawn)) == 8


def test_erasing_is_of_the_image_and_not_of_its_forward_batch(shards, make_run):
    of_four, of_eight = (
        torch.cat([images for images, _ in forward_batches(run, shards, 1)])
        for run in (make_run(batch=16, micro_batch=size, random_erasing=0.9) for size in (4, 8))
    )
    assert torch.equal(of_four, of_eight)


def test_seeds_do_not_share_their_draws(shards, make_run):
    one, other = (forward_batches(make_run(seed=seed, batch=16, mixup=0.8), shards, 1)[0][1] for seed in (0, 1))
    assert not torch.equal(one, other)
