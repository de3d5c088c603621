"""Optimizer, learning rate and loss of a recipe, all timm's."""

import torch
from timm.loss import AsymmetricLossMultiLabel, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from noah.config import Recipe

TIMM_OPTIMIZERS = {"sgd": "momentum", "adamw": "adamw"}
"""timm's "sgd" is Nesterov's; the paper's is plain momentum."""


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Two groups: decayed, and what the model names in `no_weight_decay()`, with biases and norms unless `decay_1d`."""
    options = {"eps": recipe.eps} if recipe.optimizer == "adamw" else {"momentum": recipe.momentum}
    return create_optimizer_v2(
        model,
        opt=TIMM_OPTIMIZERS[recipe.optimizer],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=not recipe.decay_1d,
        # None is torch's own choice, which is not always the same as no.
        fused=recipe.fused or None,
        **options,
    )


def weight_decay_groups(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, int]]:
    """How many tensors and parameters are decayed and how many are not."""
    groups = {name: {"tensors": 0, "parameters": 0} for name in ("decayed", "not_decayed")}
    for group in optimizer.param_groups:
        counts = groups["decayed" if group["weight_decay"] > 0 else "not_decayed"]
        counts["tensors"] += len(group["params"])
        counts["parameters"] += sum(parameter.numel() for parameter in group["params"])
    return groups


def build_scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> Scheduler | None:
    """timm's scheduler, counted in optimizer steps or epochs; None where the rate is constant.

    It keeps no state of its own: the rate is a function of the step, so a resumed run needs nothing of it.
    """
    unit = 1 if recipe.schedule_per_epoch else steps_per_epoch
    common = {
        "warmup_t": round(recipe.warmup_epochs * unit),
        "warmup_lr_init": recipe.warmup_lr,
        # Warm-up is a part of the schedule: timm's steps would otherwise be counted from its end.
        "warmup_prefix": False,
        "t_in_epochs": recipe.schedule_per_epoch,
    }
    total = recipe.epochs * unit
    if recipe.schedule == "cosine":
        return CosineLRScheduler(optimizer, t_initial=total, lr_min=recipe.min_lr, **common)
    if recipe.schedule == "linear":
        return PolyLRScheduler(optimizer, t_initial=total, power=1.0, lr_min=recipe.min_lr, **common)
    if recipe.schedule == "step":
        # timm looks one unit ahead, and would lower the rate that much too early.
        milestones = [epoch * unit + 1 for epoch in recipe.milestones]
        return MultiStepLRScheduler(optimizer, decay_t=milestones, decay_rate=recipe.gamma, **common)
    if common["warmup_t"]:
        return MultiStepLRScheduler(optimizer, decay_t=[], decay_rate=1.0, **common)
    return None


def set_lr(optimizer: torch.optim.Optimizer, scheduler: Scheduler | None, step: int, steps_per_epoch: int) -> float:
    """Set and return the rate of optimizer step number `step` (from 0)."""
    if scheduler is not None:
        scheduler.step(step // steps_per_epoch)
        scheduler.step_update(step)
    return optimizer.param_groups[0]["lr"]


def build_loss(recipe: Recipe, multi_label: bool = False) -> nn.Module:
    """The mean over images, and with multi-label data over classes too.

    Takes class numbers, soft targets under mixup or cutmix (smoothing is then in the targets), or with multi-label data
    zeros and ones. The official ASL (Ben-Baruch et al., arXiv 2009.14119) is a sum: its rates are not ours.
    """
    if multi_label:
        asymmetric = recipe.multi_label_loss == "asymmetric"
        return AsymmetricLossMultiLabel(reduction="mean") if asymmetric else nn.BCEWithLogitsLoss()
    if recipe.mixup or recipe.cutmix:
        return SoftTargetCrossEntropy()
    if recipe.label_smoothing:
        return LabelSmoothingCrossEntropy(recipe.label_smoothing)
    return nn.CrossEntropyLoss()
