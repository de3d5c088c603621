"""One optimizer step: forward, backward, update, average."""

import hashlib
import math
import random

import numpy as np
import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import nn

from noah.config import Run
from noah.data.transforms import normalize
from noah.engine.distributed import World, autocast
from noah.engine.optim import build_loss
from noah.engine.state import TrainState


def stepper(run: Run, model: nn.Module, state: TrainState, ranks: World):
    """The function that does one optimizer step on a group of forward batches and returns their mean loss.

    Raises:
        FloatingPointError: The loss is no finite number; the message has step, rate and the loss until then.
    """
    recipe = run.recipe
    criterion = build_loss(recipe)
    erase, mixup = None, None
    if recipe.random_erasing:
        erase = RandomErasing(recipe.random_erasing, mode="pixel", device=ranks.device)
    if recipe.mixup or recipe.cutmix:
        mixup = Mixup(
            recipe.mixup,
            recipe.cutmix,
            label_smoothing=recipe.label_smoothing,
            num_classes=run.dataset.num_classes,
        )

    def step_once(group: list, lr: float) -> float:
        model.train()
        total = torch.zeros((), device=ranks.device)
        for index, (images, labels, _) in enumerate(group):
            images = normalize(images.to(ranks.device, non_blocking=True), run.dataset)
            targets = labels.to(ranks.device, non_blocking=True)
            # timm's draw from the global generators of Python and NumPy.
            drawn = seed_from(run.seed, state.step, index, ranks.rank)
            random.seed(drawn)
            np.random.seed(drawn % 2**32)
            images = erase(images) if erase else images
            if mixup:
                images, targets = mixup(images, targets)
            if recipe.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with autocast(ranks.device, recipe.precision):
                loss = criterion(model(images).float(), targets) / len(group)
            loss.backward()
            total += loss.detach()
        mean_loss = total.item()
        if not math.isfinite(mean_loss):
            last = state.epoch_loss_sum / max(state.epoch_images, 1)
            raise FloatingPointError(
                f"{run.key}: loss is {mean_loss} at step {state.step + 1}, learning rate {lr:g}; "
                f"mean loss of this epoch until then: {last:g}"
            )
        if recipe.clip_grad:
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_grad)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        if state.ema:
            state.ema.update(state.model, step=state.step)
        images_here = sum(len(labels) for _, labels, _ in group)
        state.epoch_loss_sum += mean_loss * images_here
        state.epoch_images += images_here
        return mean_loss

    return step_once


def seed_from(*parts) -> int:
    """A 63-bit number from anything printable, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
