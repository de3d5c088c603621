"""The training loop: from a run and its shards to a model, its history and its predictions.

Everything random is a pure function of the run: the order of (seed, epoch), augmentation of (seed, epoch, key), mixup
of (seed, step), dropout of the saved generator. So a run that is stopped and resumed ends with the same bits (on a CPU,
with the same number of threads and processes).
"""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from timm.utils import ModelEmaV3
from torch import nn

from noah.config import Run
from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.engine.distributed import World, world
from noah.engine.optim import build_optimizer, build_scheduler, set_lr
from noah.engine.predict import loss_and_top1, predict, write_predictions
from noah.engine.progress import ProgressReport
from noah.engine.provenance import describe_arm, describe_origin
from noah.engine.state import TrainState, lock, remove_checkpoints, state_folder
from noah.engine.step import seed_from, stepper
from noah.files import write_atomic, write_json, write_text
from noah.models import build_model
from noah.signals import Interrupted, StopSignals


@dataclass(frozen=True)
class Machine:
    """What may differ from one machine to the next: no part of the run."""

    device: str = "auto"
    threads: int = 1
    """Of torch on the CPU; the bits of a CPU result depend on it."""
    workers: int = 0
    """Processes that decode images, per rank."""
    state: Path = Path("state")
    checkpoint_minutes: float = 10.0


def train(run: Run, shards_root: Path, out: Path, machine: Machine = Machine()) -> None:
    """Train a run and write its folder; resumes where an earlier attempt was stopped.

    Args:
        shards_root: Holds {dataset}/{split}/manifest.json.
        out: Receives run.yaml, model.safetensors, history.csv, predictions.parquet, arm.json, provenance.json.

    Raises:
        ValueError: The run, its data or the number of processes cannot work.
        FloatingPointError: The loss is no longer a finite number.
        Interrupted: SIGTERM or SIGINT arrived; the state is saved.
    """
    torch.set_num_threads(machine.threads)
    splits = {name: Shards(shards_root / run.dataset.name / name) for name in run.dataset.splits}
    for shards in splits.values():
        shards.check_tars(machine.state / "verified.json")
    folder = state_folder(machine.state, run, splits["train"].manifest_sha256)
    with world(machine.device) as ranks:
        run.recipe.check_world_size(ranks.size)
        if ranks.is_main:
            with lock(folder):
                _train(run, splits, out, folder, machine, ranks)
        else:
            _train(run, splits, out, folder, machine, ranks)


def _train(run: Run, splits: dict[str, Shards], out: Path, folder: Path, machine: Machine, ranks: World) -> None:
    recipe = run.recipe
    steps_per_epoch = len(splits["train"]) // recipe.batch
    total_steps = recipe.epochs * steps_per_epoch
    if total_steps == 0:
        raise ValueError(
            f"{run.key}: batch is {recipe.batch}, expected at most the {len(splits['train'])} images of split train"
        )
    state = build_state(run, ranks)
    resumed = state.load(folder)
    state.note_start()
    model = ranks.wrap(state.model)
    scheduler = build_scheduler(state.optimizer, recipe, steps_per_epoch)
    step_once = stepper(run, model, state, ranks)

    with (
        StopSignals() as stop,
        ProgressReport(folder / "train.log", total_steps, state.step, recipe.batch, not ranks.is_main) as progress,
    ):
        progress.say(f"{run.key}: {'resuming at' if resumed else 'from'} step {state.step} of {total_steps}")
        saved_at = time.monotonic()
        while state.step < total_steps:
            epoch, start_step = divmod(state.step, steps_per_epoch)
            batches = train_loader(
                splits["train"],
                run,
                epoch,
                start_step=start_step,
                rank=ranks.rank,
                world_size=ranks.size,
                workers=machine.workers,
            )
            clock = time.monotonic()
            for group in _groups(batches, recipe.accumulate):
                lr = set_lr(state.optimizer, scheduler, state.step, steps_per_epoch)
                loss = step_once(group, lr)
                state.epoch_seconds += time.monotonic() - clock
                progress.step(state.step, epoch + 1, loss, lr)
                if state.step % steps_per_epoch == 0:
                    _finish_epoch(run, splits, state, ranks, machine, epoch + 1, lr)
                    progress.epoch(state.history[-1])
                stopped = ranks.any(stop.received is not None)
                due = time.monotonic() - saved_at > 60 * machine.checkpoint_minutes
                if ranks.is_main and (stopped or due):
                    state.save(folder)
                    saved_at = time.monotonic()
                if stopped:
                    ranks.barrier()
                    raise Interrupted(stop.received or signal.SIGTERM)
                clock = time.monotonic()

        if ranks.is_main:
            state.save(folder)
        evaluated = state.ema.module if recipe.evaluate == "ema" else state.model
        logits = predict(evaluated, splits["test"], run.dataset, recipe, ranks, machine.workers)
        if ranks.is_main:
            manifests = {name: shards.manifest_sha256 for name, shards in splits.items()}
            origin = describe_origin(run, manifests, ranks, state)
            _write_outputs(run, splits["test"], out, evaluated, state, logits, origin)
            remove_checkpoints(folder)
            progress.say(f"{run.key}: done in {state.seconds:.0f} s of training")


def build_state(run: Run, ranks: World) -> TrainState:
    """Model, optimizer and EMA at step 0, seeded by the run."""
    torch.manual_seed(seed_from(run.seed, "init"))
    model = build_model(**run.model_arguments).to(ranks.device)
    if run.recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    ema = ModelEmaV3(model, decay=run.recipe.ema_decay) if run.recipe.ema_decay else None
    torch.manual_seed(seed_from(run.seed, "train", ranks.rank))
    return TrainState(model, build_optimizer(model, run.recipe), ema)


def _finish_epoch(
    run: Run, splits: dict[str, Shards], state: TrainState, ranks: World, machine: Machine, epoch: int, lr: float
) -> None:
    """Add the epoch's line to the history, with a look at the minival where it is due."""
    minival_loss = minival_top1 = None
    due = epoch % run.recipe.eval_every_epochs == 0 or epoch == run.recipe.epochs
    if due and "minival" in splits:
        shown = state.ema.module if run.recipe.evaluate == "ema" else state.model
        logits = predict(shown, splits["minival"], run.dataset, run.recipe, ranks, machine.workers)
        minival_loss, minival_top1 = loss_and_top1(logits, splits["minival"].labels)
    loss_sum, images = ranks.sum(state.epoch_loss_sum, state.epoch_images)
    state.history.append(
        {
            "epoch": epoch,
            "step": state.step,
            "time": time.time(),
            "lr": lr,
            "train_loss": loss_sum / images,
            "images_per_s": images / state.epoch_seconds,
            "minival_loss": minival_loss,
            "minival_top1": minival_top1,
        }
    )
    state.seconds += state.epoch_seconds
    state.epoch_loss_sum, state.epoch_images, state.epoch_seconds = 0.0, 0, 0.0


def _write_outputs(
    run: Run, test: Shards, out: Path, evaluated: nn.Module, state: TrainState, logits: torch.Tensor, origin: dict
) -> None:
    write_text(out / "run.yaml", run.to_yaml())
    with write_atomic(out / "history.csv") as temporary:
        pd.DataFrame(state.history).to_csv(temporary, index=False)
    write_predictions(out / "predictions.parquet", test.keys, test.labels, logits)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in evaluated.state_dict().items()}
    with write_atomic(out / "model.safetensors") as temporary:
        # One entry only: safetensors writes several in an order of its own, and the file would differ from run to run.
        save_file(weights, temporary, metadata={"run_sha256": run.hash})
    write_json(out / "arm.json", describe_arm(run, state.model, state.optimizer))
    write_json(out / "provenance.json", origin)


def _groups(batches, size: int):
    """Consecutive forward batches that share one optimizer step."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    assert not group, "the loader yields whole optimizer batches"
