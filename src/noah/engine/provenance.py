"""Where a result came from: arm.json (what was compared) and provenance.json (which code, data and machine made it)."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch
from torch import nn

import noah
from noah.config import Run
from noah.data.reader import Shards
from noah.devices import describe_device
from noah.engine.distributed import World
from noah.engine.optim import weight_decay_groups
from noah.engine.state import TrainState
from noah.models import describe


def describe_arm(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """What this arm is, for the fairness note: read off the model and the optimizer, not off the config."""
    return {
        "run_key": run.key,
        "head": run.head.model_dump(exclude_none=True),
        **describe(model),
        "head_dropout": run.head.drop_rate,
        "init": run.head.init,
        "weight_decay_groups": weight_decay_groups(optimizer),
        "backbone_changes": run.backbone.changes,
        "recipe": run.recipe_name,
    }


def describe_origin(run: Run, splits: dict[str, Shards], world: World, state: TrainState) -> dict:
    """Commits, versions, machine and data of a finished run."""
    first, *later = state.starts
    return {
        "run_key": run.key,
        "run_sha256": run.hash,
        "commit": first["commit"],
        "dirty": any(start["dirty"] for start in state.starts),
        "resumed_at_commits": sorted({start["commit"] for start in later} - {first["commit"]}),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": version("timm"),
            "noah": noah.__version__,
        },
        "device": describe_device(world.device),
        "threads": torch.get_num_threads(),
        "world_size": world.size,
        "world_sizes": [start["world_size"] for start in state.starts],
        "manifests": {name: shards.manifest_sha256 for name, shards in splits.items()},
        "quarantine_share": {name: shards.manifest["quarantine_share"] for name, shards in splits.items()},
        "evaluated_weights": run.recipe.evaluate,
        "kept_weights": list(state.weights),
        "precision": run.recipe.precision,
        "channels_last": run.recipe.channels_last,
        "cudnn_benchmark": run.recipe.cudnn_benchmark,
        "grad_checkpointing": run.recipe.grad_checkpointing,
        "evaluated_in": run.recipe.eval_precision,
        "epochs": run.recipe.epochs,
        "started": first["time"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "starts": len(state.starts),
        "train_seconds": round(state.seconds, 3),
    }
