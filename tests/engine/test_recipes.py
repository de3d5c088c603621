"""Every recipe trains every family it is meant for, in both precisions, and learns."""

from pathlib import Path

import pytest
import torch
from small_runs import BACKBONES
from tests_support import REPOSITORY

from noah.config import Recipe, Run, load_recipe
from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.engine.distributed import World
from noah.engine.step import Losses, stepper
from noah.engine.train import build_state

ALONE = World(0, 1, torch.device("cpu"))
RECIPES = sorted(path.stem for path in (REPOSITORY / "config/recipes").glob("*.yaml"))


def losses(run: Run, shards_root: Path, steps: int, one_batch: bool = False) -> list[float]:
    shards = Shards(shards_root / "tiny" / "train")
    batches = list(train_loader(shards, run, 0))
    state = build_state(run, ALONE)
    step_once = stepper(run, state.model, state, ALONE, Losses(run, state, lag=0))
    passes = run.recipe.passes(1)
    groups = [batches[first : first + passes] for first in range(0, len(batches), passes)]
    return [step_once(groups[0 if one_batch else step], run.recipe.lr) for step in range(steps)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains_two_steps_of_each_family_with_a_finite_loss(tiny_shards, make_small, name, precision):
    families = ["cnn"] if load_recipe(name, REPOSITORY / "config").first_size else BACKBONES
    for family in families:
        # A loss that is no finite number raises.
        first, second = losses(make_small(name, family, precision=precision), tiny_shards, 2)
        assert 0 < first < 20
        assert first != second


@pytest.mark.parametrize(("name", "family"), [("resnet", "cnn"), ("deit", "vit"), ("mlp", "mlp")])
def test_the_loss_falls_over_30_steps_on_one_batch(tiny_shards, make_small, name, family):
    lr = load_recipe(name, REPOSITORY / "config").lr
    # The published rate of SGD is for 256 images.
    lr = lr * 16 / 256 if family == "cnn" else lr
    run = make_small(name, family, batch=16, micro_batch=16, lr=lr)
    measured = losses(run, tiny_shards, 30, one_batch=True)
    assert sum(measured[-5:]) < sum(measured[:5]) - 0.5


def test_growing_images_are_small_at_first_and_full_in_the_end(tiny_shards, make_small):
    run = make_small("budget", "cnn")
    shards = Shards(tiny_shards / "tiny" / "train")
    sizes = [next(iter(train_loader(shards, run, epoch)))[0].shape[-1] for epoch in (0, 4, 9, 16, 17)]
    assert sizes == [16, 16, 24, 32, 32]


def test_growing_images_are_refused_where_the_model_has_one_size(make_small):
    with pytest.raises(ValueError, match=r"'budget' on backbone 'deit_tiny.*first_size is 16, expected none"):
        make_small("budget", "vit")
    run = make_small("budget", "cnn").model_dump()
    with pytest.raises(ValueError, match=r"first_size is 64, expected .* at most the 32 pixels"):
        Run.model_validate({**run, "recipe": {**run["recipe"], "first_size": 64}})


def test_train_size_reaches_the_full_size_at_seven_eighths(make_small):
    recipe = Recipe(epochs=16, batch=8, lr=0.1, first_size=128)
    sizes = [recipe.train_size(epoch, 224) for epoch in range(16)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[13] < 224, sizes[14]) == (128, True, 224)
    assert all(size % 8 == 0 for size in sizes)
