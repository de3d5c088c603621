"""The training loop: from a run and its shards to a model, its history and its predictions.

Everything random is a pure function of the run: the order of (seed, epoch), augmentation of (seed, epoch, key), erasing
of (seed, step, place in the batch), mixup and dropout of (seed, step, number of the forward batch). So a run that is
stopped and resumed ends with the same bits (on a CPU, with the same number of threads and processes). With another
number of processes it goes on with the same draws; sums are then added up in another order.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from noah.config import Run
from noah.data.access import open_splits
from noah.data.batches import Batch
from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.engine.compiled import Parts, compiled
from noah.engine.distributed import World, world
from noah.engine.failure import attempt
from noah.engine.folder import remove_checkpoints, remove_leftovers, state_folder
from noah.engine.lock import Lock, lock
from noah.engine.optim import build_scheduler, set_lr
from noah.engine.outputs import finish
from noah.engine.predict import loss_and_score, predict, records_loader
from noah.engine.progress import ProgressReport
from noah.engine.setup import build_state, check_device
from noah.engine.state import TrainState
from noah.engine.step import Losses, stepper
from noah.precision import cudnn_search, float32_products
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
        cudnn_search(run.recipe.cudnn_benchmark),
    ):
        folder = state_folder(machine.state, run, splits["train"].manifest_sha256)
        run.recipe.passes(ranks.size)
        check_device(run, ranks.device)
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
    batches = _batches_left(run, splits["train"], state.step, steps_per_epoch, ranks, machine)
    minival = None
    if "minival" in splits:
        minival = records_loader(splits["minival"], run.dataset, recipe, ranks, machine.workers, persist=True)

    with (
        attempt(folder, run.key, state),
        state.writing,
        StopSignals() as stop,
        ProgressReport(folder / "train.log", total_steps, state.step, recipe.batch, not ranks.is_main) as progress,
    ):
        progress.say(f"{run.key}: {'resuming at' if resumed else 'from'} step {state.step} of {total_steps}")
        saved_at = clock = time.monotonic()
        for group in _groups(batches, recipe.passes(ranks.size)):
            epoch = state.step // steps_per_epoch + 1
            lr = set_lr(state.optimizer, scheduler, state.step, steps_per_epoch)
            loss = step_once(group, lr)
            state.epoch_seconds += time.monotonic() - clock
            progress.step(state.step, epoch, loss, lr)
            if state.step % steps_per_epoch == 0:
                losses.settle()
                _finish_epoch(run, splits, minival, state, ranks, epoch, lr)
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
                state.save(folder, ranks, held, wait=stopped)
                saved_at = time.monotonic()
            state.writing.check()
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


def _batches_left(
    run: Run, train_split: Shards, step: int, steps_per_epoch: int, ranks: World, machine: Machine
) -> Iterable[Batch]:
    """The forward batches of this rank from optimizer step `step` to the end of training."""
    epoch, start_step = divmod(step, steps_per_epoch)
    if epoch == run.recipe.epochs:
        return ()
    return train_loader(
        train_split,
        run,
        epoch,
        epochs=run.recipe.epochs - epoch,
        start_step=start_step,
        rank=ranks.rank,
        world_size=ranks.size,
        workers=machine.workers,
        pin_memory=ranks.device.type == "cuda",
    )


def _finish_epoch(
    run: Run,
    splits: dict[str, Shards],
    minival: DataLoader | None,
    state: TrainState,
    ranks: World,
    epoch: int,
    lr: float,
) -> None:
    """Add the epoch's line to the history, with a look at the minival (its loader) where it is due."""
    minival_loss = minival_score = None
    due = epoch % run.recipe.eval_every_epochs == 0 or epoch == run.recipe.epochs
    if due and minival is not None:  # not by its truth: a rank may have no batch of it
        shown = ranks.share(state.weights[run.recipe.evaluate])
        rows = predict(shown, splits["minival"], run.dataset, run.recipe, ranks, loader=minival)
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


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Consecutive forward batches that share one optimizer step."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    assert not group, "the loader yields whole optimizer batches"
