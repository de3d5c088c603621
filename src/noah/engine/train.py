"""The training loop: from a run and its shards to a model, its history and its predictions.

Everything random is a pure function of the run: the order of (seed, epoch), augmentation of (seed, epoch, key), erasing
of (seed, step, place in the batch), mixup and dropout of (seed, step, number of the forward batch). So a run that is
stopped and resumed ends with the same bits (on a CPU, with the same number of threads and processes). With another
number of processes it goes on with the same draws; sums are then added up in another order.
"""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.utils import ModelEmaV3

from noah.config import Run
from noah.data.access import open_splits
from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.engine.compiled import Parts, check_compiler, compiled
from noah.engine.distributed import World, world
from noah.engine.failure import attempt
from noah.engine.folder import remove_checkpoints, remove_leftovers, state_folder
from noah.engine.lock import Lock, lock
from noah.engine.optim import build_optimizer, build_scheduler, set_lr
from noah.engine.outputs import finish
from noah.engine.predict import loss_and_score, predict
from noah.engine.progress import ProgressReport
from noah.engine.state import TrainState
from noah.engine.step import Losses, seed_from, stepper
from noah.models import build_model
from noah.models.pretrained import load_backbone
from noah.precision import float32_products
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
    keep_state: bool = False
    """Keep the last checkpoint, so that a result that was lost on its way is written again without training. The
    pipeline does: a job can outlive the Snakemake that started it, and the next one removes what it does not know."""
    stage_to: Path | None = None
    """A folder on a disk of this node that shards are copied to."""
    cache: Path = Path("state/cache")
    """Keeps the shards that lie behind a URL."""


ASK_EVERY_STEPS = 10
"""How often the ranks of several GPUs tell each other that they were asked to stop, or that a checkpoint is due."""
OnEpoch = Callable[[list[dict]], None]
"""Gets the lines of history.csv so far, after each epoch and on the first rank. It must neither raise nor wait."""


def train(
    run: Run, shards_root: Path | str, out: Path, machine: Machine = Machine(), on_epoch: OnEpoch | None = None
) -> None:
    """Train a run and write its folder; resumes where an earlier attempt was stopped.

    Args:
        shards_root: Holds {dataset}/{split}/manifest.json; a folder, or a URL as a string.
        out: Receives run.yaml, model.safetensors, history.csv, predictions.parquet, arm.json, provenance.json
            (noah.engine.outputs).

    Raises:
        ValueError: The run, its data or the number of processes cannot work; another process trains it; or it was
            tried before and failed by itself (noah.engine.failure).
        FloatingPointError: The loss is no longer a finite number.
        Interrupted: SIGTERM or SIGINT arrived; the state is saved.
    """
    torch.set_num_threads(machine.threads)
    with (
        open_splits(
            shards_root,
            run.dataset,
            cache=machine.cache,
            stage_to=machine.stage_to,
            checked=machine.state / "verified.json",
        ) as splits,
        world(machine.device) as ranks,
        float32_products(run.recipe.precision),
    ):
        folder = state_folder(machine.state, run, splits["train"].manifest_sha256)
        run.recipe.passes(ranks.size)
        if run.recipe.compile:
            check_compiler(ranks.device)
        with lock(folder) if ranks.is_main else contextlib.nullcontext() as held:
            _train(run, splits, out, folder, machine, ranks, held, on_epoch)


def _train(
    run: Run,
    splits: dict[str, Shards],
    out: Path,
    folder: Path,
    machine: Machine,
    ranks: World,
    held: Lock | None,
    on_epoch: OnEpoch | None,
) -> None:
    """`held` is the lock of the folder, on the first rank."""
    recipe = run.recipe
    steps_per_epoch = len(splits["train"]) // recipe.batch
    total_steps = recipe.epochs * steps_per_epoch
    if total_steps == 0:
        raise ValueError(
            f"{run.key}: batch is {recipe.batch}, expected at most the {len(splits['train'])} images of split train"
        )
    if ranks.is_main:
        remove_leftovers(folder)
    state = build_state(run, ranks)
    resumed = state.load(folder, ranks)
    state.note_start(ranks.size)
    model = compiled(ranks.wrap(Parts(state.model)), recipe) if recipe.compile else ranks.wrap(state.model)
    scheduler = build_scheduler(state.optimizer, recipe, steps_per_epoch)
    on_gpu = ranks.device.type == "cuda"
    # Reading a loss and asking the other ranks both wait for the GPU.
    losses = Losses(run, state, lag=int(on_gpu))
    ask_every = ASK_EVERY_STEPS if on_gpu and ranks.size > 1 else 1
    step_once = stepper(run, model, state, ranks, losses)

    with (
        attempt(folder, run.key, state),
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
            for group in _groups(batches, recipe.passes(ranks.size)):
                lr = set_lr(state.optimizer, scheduler, state.step, steps_per_epoch)
                loss = step_once(group, lr)
                state.epoch_seconds += time.monotonic() - clock
                progress.step(state.step, epoch + 1, loss, lr)
                if state.step % steps_per_epoch == 0:
                    losses.settle()
                    _finish_epoch(run, splits, state, ranks, machine, epoch + 1, lr)
                    progress.epoch(state.history[-1])
                    if on_epoch and ranks.is_main:
                        on_epoch(state.history)
                stopped = due = False
                if state.step % ask_every == 0:
                    stopped, due = ranks.any(
                        stop.received is not None, time.monotonic() - saved_at > 60 * machine.checkpoint_minutes
                    )
                if stopped or due:
                    losses.settle()
                    state.save(folder, ranks, held)
                    saved_at = time.monotonic()
                if stopped:
                    ranks.barrier()
                    raise Interrupted(stop.received or signal.SIGTERM)
                clock = time.monotonic()

        state.save(folder, ranks, held)
        finish(run, splits, out, state, ranks, held, machine.workers)
        if ranks.is_main:
            if not machine.keep_state:
                remove_checkpoints(folder)
            progress.say(f"{run.key}: done in {state.seconds:.0f} s of training")


def build_state(run: Run, ranks: World) -> TrainState:
    """Model, optimizer and EMA at step 0, seeded by the run."""
    torch.manual_seed(seed_from(run.seed, "init"))
    model = build_model(**run.model_arguments)
    if run.backbone.weights:
        load_backbone(model, run.backbone.weights_path, run.backbone.weights_sha256)
    model = model.to(ranks.device)
    if run.recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    ema = ModelEmaV3(model, decay=run.recipe.ema_decay) if run.recipe.ema_decay else None
    return TrainState(model, build_optimizer(model, run.recipe), ema)


def _finish_epoch(
    run: Run, splits: dict[str, Shards], state: TrainState, ranks: World, machine: Machine, epoch: int, lr: float
) -> None:
    """Add the epoch's line to the history, with a look at the minival where it is due."""
    minival_loss = minival_score = None
    due = epoch % run.recipe.eval_every_epochs == 0 or epoch == run.recipe.epochs
    if due and "minival" in splits:
        shown = ranks.share(state.weights[run.recipe.evaluate])
        rows = predict(shown, splits["minival"], run.dataset, run.recipe, ranks, machine.workers)
        minival_loss, minival_score = loss_and_score(rows, splits["minival"].labels)
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
            f"minival_{run.dataset.score}": minival_score,
        }
    )
    state.seconds += state.epoch_seconds
    state.epoch_loss_sum, state.epoch_images, state.epoch_seconds = 0.0, 0, 0.0


def _groups(batches, size: int):
    """Consecutive forward batches that share one optimizer step."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    assert not group, "the loader yields whole optimizer batches"
