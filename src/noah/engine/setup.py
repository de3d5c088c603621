"""Where a training begins: what its device must be able to do, and model, optimizer and average at step 0."""

import torch
from timm.utils import ModelEmaV3

from noah.config import Run
from noah.devices import check_memory, check_precision
from noah.engine.compiled import check_compiler
from noah.engine.distributed import World
from noah.engine.optim import build_optimizer
from noah.engine.state import TrainState
from noah.engine.step import seed_from
from noah.models import build_model
from noah.models.memory import checkpoint_gradients, kept_for_backward
from noah.models.pretrained import load_backbone


def check_device(run: Run, device: torch.device) -> None:
    """ValueError, before anything is trained, where this device cannot do what the recipe asks for."""
    recipe = run.recipe
    if recipe.compile:
        check_compiler(device)
    for field in ("precision", "eval_precision"):
        check_precision(f"recipe: {field}", getattr(recipe, field), device)
    if device.type == "cuda":
        check_memory(f"{run.key}: a training step", least_memory(run), device)


def least_memory(run: Run) -> int:
    """Bytes that a training step of a run holds at once on its device, at least.

    What the head keeps depends on its kernel and is left out, and so is with `compile` what the backbone keeps.
    """
    recipe = run.recipe
    with torch.device("meta"):
        model = build_model(**run.model_arguments)
    if recipe.grad_checkpointing:
        checkpoint_gradients(model, run.backbone.name)
    size = recipe.train_size(0, run.dataset.image_size)
    kept = kept_for_backward(model, size, fused_attention=True)
    activations = 0 if recipe.compile else recipe.step_bytes(0, kept["kept"] - kept["head_kept"])
    parameters = sum(p.numel() for p in model.parameters())
    gradients = 4 * parameters
    # Of one pass the gradients come as the activations go; several add up theirs beside the next one's activations.
    beside = gradients + activations if recipe.forward_batch < recipe.batch else max(gradients, activations)
    return recipe.step_bytes(parameters, 0) - gradients + beside


def build_state(run: Run, ranks: World) -> TrainState:
    """Model, optimizer, EMA and the loss's scale at step 0, seeded by the run."""
    torch.manual_seed(seed_from(run.seed, "init"))
    model = build_model(**run.model_arguments)
    if run.backbone.weights:
        load_backbone(model, run.backbone.weights_path, run.backbone.weights_sha256)
    model = model.to(ranks.device)
    if run.recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    ema = ModelEmaV3(model, decay=run.recipe.ema_decay) if run.recipe.ema_decay else None
    if run.recipe.grad_checkpointing:
        checkpoint_gradients(model, run.backbone.name)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=run.recipe.precision == "fp16")
    return TrainState(model, build_optimizer(model, run.recipe), ema, scaler)
