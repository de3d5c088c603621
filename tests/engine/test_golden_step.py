"""Two optimizer steps of every recipe are those of a plain loop, which a reader can check line by line."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import BACKBONES
from tests_support import REPOSITORY
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.layers import DropPath
from torch.nn import functional as F

from noah.config import Recipe, Run, load_recipe
from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.data.transforms import mean_and_std
from noah.engine.distributed import World
from noah.engine.optim import build_scheduler, set_lr
from noah.engine.step import Losses, seed_from, stepper
from noah.engine.train import build_state

ALONE = World(0, 1, torch.device("cpu"))
RECIPES = sorted(path.stem for path in (REPOSITORY / "config/recipes").glob("*.yaml"))
SWITCHES = {"random_erasing": 0.9, "clip_grad": 0.01, "ema_decay": 0.7}
"""What is on in a recipe is on strongly here: of two steps on four images it has to be seen."""
DECAY = {"adamw": 20.0, "sgd": 0.5}
"""So is weight decay, by optimizer, or two steps would hide it behind the tolerance."""
NEVER_DECAYED = ("backbone.pos_embed",)
"""Not even where a recipe decays what has one dimension."""
EPS = 1e-3
"""Of AdamW here: with 1e-8 a gradient that is nothing but rounding moves its weight by a whole step."""
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCES = {"bf16": 2e-2, "fp16": 4e-3}
"""In half precision a rounding is a step of the last digit."""
SCALE = 2.0**8
"""Of the loss in fp16. torch's first one, 2**16, is too much for most of these models: it halves it until it fits."""


def rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, from 0."""
    unit = 1 if recipe.schedule_per_epoch else steps_per_epoch
    t, total, warmup = step * unit // steps_per_epoch, recipe.epochs * unit, round(recipe.warmup_epochs * unit)
    if t < warmup:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * t / warmup
    return {
        "cosine": recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * t / total)) / 2,
        "linear": recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 - t / total),
        "step": recipe.lr * recipe.gamma ** sum(t >= milestone * unit for milestone in recipe.milestones),
        "constant": recipe.lr,
    }[recipe.schedule]


def seed(*parts) -> None:
    drawn = seed_from(*parts)
    random.seed(drawn), np.random.seed(drawn % 2**32), torch.manual_seed(drawn)


def mixed(recipe: Recipe, x, labels, classes: int):
    """timm's mixup and cutmix (arXiv 1710.09412, 1905.04899) of a batch with itself in reverse, smoothing included."""
    mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=classes)
    return mix(x, labels)


def plain_steps(run: Run, model, steps: list[list], first: int, steps_per_epoch: int) -> tuple[list, dict]:
    """Losses of the steps and the averaged weights; the model learns in place. `first`: number of the first step."""
    recipe, classes = run.recipe, run.dataset.num_classes
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in mean_and_std(recipe, run.dataset))
    groups = {True: [], False: []}
    for name, p in model.named_parameters():
        matrix = p.ndim > 1 and not name.endswith(".bias")
        groups[name not in NEVER_DECAYED and (recipe.decay_1d or matrix)].append(p)
    groups = [{"params": ps, "weight_decay": recipe.weight_decay * decayed} for decayed, ps in groups.items() if ps]
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, recipe.lr, momentum=recipe.momentum)
    else:
        optimizer = torch.optim.AdamW(groups, recipe.lr, eps=recipe.eps)
    average, losses = {name: t.clone() for name, t in model.state_dict().items()}, []
    erase = RandomErasing(recipe.random_erasing, mode="pixel", device="cpu")
    scale = SCALE if recipe.precision == "fp16" else 1.0
    for step, passes in enumerate(steps, first):
        losses.append(0.0)
        for number, (images, labels, _) in enumerate(passes):
            x = (images / 255 - mean) / std
            for place in range(len(x)) if recipe.random_erasing else ():
                seed(run.seed, step, "place", number * len(x) + place)
                erase(x[place])
            seed(run.seed, step, number)
            targets = (1 - recipe.label_smoothing) * F.one_hot(labels, classes) + recipe.label_smoothing / classes
            if recipe.mixup or recipe.cutmix:
                x, targets = mixed(recipe, x, labels, classes)
            if recipe.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", HALF.get(recipe.precision), enabled=recipe.precision in HALF):
                logits = model(x)
            loss = -(targets * logits.float().log_softmax(1)).sum(1).mean() / len(passes)
            (loss * scale).backward()
            losses[-1] += loss.item()
        for p in model.parameters():
            p.grad /= scale
        overflowed = not all(p.grad.isfinite().all() for p in model.parameters())
        scale /= 2 if overflowed else 1
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        for p in model.parameters():
            p.grad *= min(1.0, recipe.clip_grad / norm.item()) if recipe.clip_grad else 1.0
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step, steps_per_epoch)
        if not overflowed:
            optimizer.step()
        optimizer.zero_grad()
        for name, t in model.state_dict().items():
            average[name] = t if not t.is_floating_point() else average[name].lerp(t, 1 - (recipe.ema_decay or 0))
    return losses, average


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_of_a_recipe_are_those_of_the_plain_loop(tiny_shards, make_small, name, precision):
    original = load_recipe(name, REPOSITORY / "config")
    on = {field: value for field, value in SWITCHES.items() if getattr(original, field)}
    if original.weight_decay:
        on["weight_decay"] = DECAY[original.optimizer]
    for family in ["cnn"] if original.first_size else BACKBONES:
        run = make_small(name, family, precision=precision, eps=EPS, **on)
        # A tenth of AdamW's step: sums of other kernels in another order move small gradients by that much.
        fp32 = max(1e-4, original.lr / 10 if original.optimizer == "adamw" else 0)
        compare(run, tiny_shards, TOLERANCES.get(precision, fp32))


def compare(run: Run, shards_root: Path, tolerance: float) -> None:
    recipe = run.recipe
    batches = list(train_loader(Shards(shards_root / "tiny" / "train"), run, 0))
    passes = recipe.batch // recipe.micro_batch
    steps = [batches[:passes], batches[passes : 2 * passes]]
    per_epoch = len(batches) // passes
    first = per_epoch * (recipe.epochs // 2) + 1  # in the middle, where no warm-up makes steps invisible

    plain = build_state(run, ALONE).model.train()
    expected, average = plain_steps(run, plain, steps, first, per_epoch)

    state = build_state(run, ALONE)
    state.step = first
    if recipe.precision == "fp16":
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": SCALE})
    scheduler = build_scheduler(state.optimizer, recipe, per_epoch)
    step_once = stepper(run, state.model, state, ALONE, Losses(run, state, lag=0))
    losses = []
    for group in steps:
        lr = set_lr(state.optimizer, scheduler, state.step, per_epoch)
        assert lr == pytest.approx(rate(recipe, state.step, per_epoch), rel=1e-9)
        losses.append(step_once(group, lr))

    assert losses == pytest.approx(expected, abs=tolerance, rel=tolerance)
    assert_alike(state.model.state_dict(), plain.state_dict(), tolerance)
    assert (state.ema is not None) == (recipe.ema_decay is not None)
    if state.ema:
        assert_alike(state.ema.module.state_dict(), average, tolerance)


def assert_alike(found: dict, expected: dict, tolerance: float) -> None:
    """Within the tolerance, but for one number in ten thousand: those behind a ReLU whose input is nothing but
    rounding, which passes a gradient or not."""
    assert found.keys() == expected.keys()
    off = {key: (found[key] - other).abs() / (tolerance * (1 + other.abs())) for key, other in expected.items()}
    worst = max(off, key=lambda key: off[key].max())
    beyond = sum(int((ratio > 1).sum()) for ratio in off.values())
    assert off[worst].max() < 5, f"{worst}: {off[worst].max():.1f} times the tolerance"
    assert beyond <= 1 + 1e-4 * sum(ratio.numel() for ratio in off.values()), f"{beyond} numbers differ, as in {worst}"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_precision_that_is_asked_for(tiny_shards, make_small, precision, dtype):
    run, seen = make_small("deit", "vit", precision=precision), set()
    state = build_state(run, ALONE)
    for layer in state.model.backbone.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda module, inputs, out: seen.add(out.dtype))
    batches = list(train_loader(Shards(tiny_shards / "tiny" / "train"), run, 0))[: run.recipe.passes(1)]
    stepper(run, state.model, state, ALONE, Losses(run, state, lag=0))(batches, 1e-3)
    assert seen == {dtype}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_dropout_and_drop_path_stand_in_its_backbone(make_small, name):
    recipe = load_recipe(name, REPOSITORY / "config")
    if recipe.first_size:
        return
    model = build_state(make_small(name, "vit"), ALONE).model.backbone
    assert {layer.p for path, layer in model.named_modules() if path.endswith("proj_drop")} == {recipe.proj_drop_rate}
    deep = make_small(name, "vit")
    deep = deep.model_copy(update={"backbone": deep.backbone.model_copy(update={"depth": 3})})
    rates = [layer.drop_prob for layer in build_state(deep, ALONE).model.modules() if isinstance(layer, DropPath)]
    assert max(rates, default=0.0) == pytest.approx(recipe.drop_path_rate)


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_gradients_are_those_of_the_whole_batch_however_it_is_cut(tiny_shards, make_small, passes):
    fields = {"batch": 8, "micro_batch": 8 // passes, "precision": "fp32", "clip_grad": None}
    off = {"mixup": 0, "cutmix": 0, "random_erasing": 0, "drop_path_rate": 0, "ema_decay": None, "optimizer": "sgd"}
    found = []
    for of_run in (passes, 1):
        run = make_small("deit", "vit", **{**fields, **off, "micro_batch": 8 // of_run, "lr": 1.0})
        run = run.model_copy(update={"head": run.head.model_copy(update={"drop_rate": 0.0})})
        state = build_state(run, ALONE)
        batches = list(train_loader(Shards(tiny_shards / "tiny" / "train"), run, 0))[:of_run]
        stepper(run, state.model, state, ALONE, Losses(run, state, lag=0))(batches, 1.0)
        found.append(state.model.state_dict())
    for key, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][key], atol=2e-6, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
