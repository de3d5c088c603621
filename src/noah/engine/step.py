"""One optimizer step: forward, backward, update, average."""

import hashlib
import math
import random
from collections import deque
from contextlib import nullcontext

import numpy as np
import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import nn

from noah.config import Run
from noah.data.transforms import normalize
from noah.devices import autocast
from noah.engine.distributed import World
from noah.engine.optim import build_loss
from noah.engine.state import TrainState


class Losses:
    """Reads the loss of every step, adds it to the epoch's, and stops at what is no finite number.

    On a GPU it reads each loss one step late. The program then never waits for the GPU's queue to be empty, and a step
    that has to be stopped at is noticed one step later, with the same words.

    Args:
        run: For messages.
        state: Its `epoch_loss_sum` and `epoch_images` count the losses that were read.
        lag: Steps that a loss may wait.

    Attributes:
        latest: The newest loss that was read; NaN before the first.
    """

    def __init__(self, run: Run, state: TrainState, lag: int):
        self._run, self._state, self._lag = run, state, lag
        self._unread: deque[tuple[torch.Tensor, torch.cuda.Event | None, int, float, int]] = deque()
        self.latest = math.nan

    def add(self, loss: torch.Tensor, lr: float, images: int) -> None:
        """The loss of the step that `state.step` will count next, and the images it is the mean of."""
        copied = None
        if loss.is_cuda:
            loss, copied = loss.to("cpu", non_blocking=True), torch.cuda.Event()
            copied.record()
        self._unread.append((loss, copied, self._state.step + 1, lr, images))
        self._read(self._lag)

    def settle(self) -> None:
        """Read what waits: before the sums are used or saved.

        Raises:
            FloatingPointError: A loss is no finite number; the message has step, rate and the loss until then.
        """
        self._read(0)

    def _read(self, keep: int) -> None:
        while len(self._unread) > keep:
            loss, copied, step, lr, images = self._unread.popleft()
            if copied:
                copied.synchronize()
            self.latest = loss.item()
            if not math.isfinite(self.latest):
                last = self._state.epoch_loss_sum / max(self._state.epoch_images, 1)
                raise FloatingPointError(
                    f"{self._run.key}: loss is {self.latest} at step {step}, learning rate {lr:g}; "
                    f"mean loss of this epoch until then: {last:g}"
                )
            self._state.epoch_loss_sum += self.latest * images
            self._state.epoch_images += images


def stepper(run: Run, model: nn.Module, state: TrainState, ranks: World, losses: Losses):
    """The function that does one optimizer step on a group of forward batches and returns the newest loss read.

    Raises:
        FloatingPointError: A loss is no finite number; see `Losses`.
    """
    recipe = run.recipe
    model.train()  # once: evaluation leaves a model in the mode that it found
    criterion = build_loss(recipe, run.dataset.multi_label)
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
        total = torch.zeros((), device=ranks.device)
        for index, (images, labels, _) in enumerate(group):
            last = index == len(group) - 1
            images = normalize(images.to(ranks.device, non_blocking=True), recipe, run.dataset)
            targets = labels.to(ranks.device, non_blocking=True)
            number = index * ranks.size + ranks.rank  # of this forward batch among those of the step
            if erase:
                for place, image in enumerate(images, start=number * len(images)):
                    seed_generators(ranks.device, run.seed, state.step, "place", place)
                    erase(image)
            seed_generators(ranks.device, run.seed, state.step, number)  # for mixup and dropout
            if mixup:
                images, targets = mixup(images, targets)
            if recipe.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            if recipe.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with nullcontext() if last else ranks.own_gradients(model):
                with autocast(ranks.device, recipe.precision):
                    loss = criterion(model(images).float(), targets) / len(group)
                state.scaler.scale(loss).backward()
            total += loss.detach()
        losses.add(total, lr, sum(len(labels) for _, labels, _ in group))
        if recipe.clip_grad:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_grad)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
        state.step += 1
        if state.ema:
            state.ema.update(state.model, step=state.step)
        return losses.latest

    return step_once


def seed_generators(device: torch.device, *parts) -> None:
    """The global generators, from which timm and dropout draw: Python's, NumPy's, and torch's, that of `device` too."""
    drawn = seed_from(*parts)
    random.seed(drawn)
    np.random.seed(drawn % 2**32)
    # Not torch.manual_seed, which writes down where it was called from as long as no GPU is in use.
    torch.default_generator.manual_seed(drawn)
    if device.type == "cuda":
        torch.cuda.manual_seed(drawn)


def seed_from(*parts) -> int:
    """A 63-bit number from anything printable, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
