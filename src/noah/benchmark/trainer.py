"""What the trainer costs beside its steps: a whole training against a bare loop of the same steps, and against a loop
in the style of timm's train.py with timm's loader."""

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.data import create_loader
from timm.utils import AverageMeter, CheckpointSaver
from torch import Tensor, nn
from torchvision.datasets import ImageFolder

from noah.benchmark.interleaved import markdown, quartiles, write
from noah.benchmark.photos import make_photos, photo_dataset
from noah.config import Dataset, Recipe, Run
from noah.data.loader import train_loader
from noah.data.reader import Shards
from noah.data.shards import index_split, write_job, write_manifest
from noah.data.transforms import normalize
from noah.engine.distributed import World
from noah.engine.lock import lock
from noah.engine.optim import build_optimizer, build_scheduler, set_lr
from noah.engine.train import Machine, build_state, train

SIZE_PX = 64
BATCH = 32
CHECKPOINT_MINUTES = Machine().checkpoint_minutes
ALONE = World(0, 1, torch.device("cpu"))
EpochEnd = Callable[..., None]
"""Called at the end of every epoch."""


def benchmark_run(dataset: Dataset, epochs: int) -> Run:
    """MobileNetV2 0.35 with a mean and a linear layer: short steps, beside which everything else shows."""
    recipe = Recipe(epochs=epochs, batch=BATCH, lr=0.01, weight_decay=1e-4, interpolation="bilinear")
    backbone = {"name": "mobilenetv2", "width": 0.35}
    parts = {"arm": "gap", "head": {"name": "gap"}, "backbone": backbone}
    return Run(dataset=dataset, recipe_name="benchmark", recipe=recipe, seed=0, **parts)


def make_shards(dataset: Dataset, root: Path) -> Path:
    """Both splits under `root`, as the pipeline writes them."""
    for split in dataset.splits:
        folder = root / dataset.name / split
        index_split(dataset, split, folder)
        for job in range(dataset.num_jobs(split)):
            write_job(dataset, split, job, folder)
        write_manifest(dataset, split, folder)
    return root


def write_folder(split: Shards, classes: tuple[str, ...], folder: Path) -> Path:
    """The same images as files, {folder}/{class}/{key}.jpg."""
    for index, (key, label) in enumerate(zip(split.keys, split.labels, strict=True)):
        path = folder / classes[label] / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(split.read(index))
    return folder


def train_bare(run: Run, shards: Path, epoch_end: EpochEnd) -> dict[str, Tensor]:
    """The steps of the run and nothing else; returns the weights."""
    split = Shards(shards / run.dataset.name / "train")
    state = build_state(run, ALONE)
    model, criterion = state.model.train(), nn.CrossEntropyLoss()
    steps = len(split) // run.recipe.batch
    scheduler = build_scheduler(state.optimizer, run.recipe, steps)
    step = 0
    for epoch in range(run.recipe.epochs):
        for images, labels, _ in train_loader(split, run, epoch):
            set_lr(state.optimizer, scheduler, step, steps)
            loss = criterion(model(normalize(images, run.recipe, run.dataset)), labels)
            loss.backward()
            state.optimizer.step()
            state.optimizer.zero_grad()
            step += 1
        epoch_end()
    return model.state_dict()


def train_noah(run: Run, shards: Path, epoch_end: EpochEnd, out: Path) -> dict[str, Tensor]:
    """The whole trainer, from nothing; returns the weights that it wrote."""
    shutil.rmtree(out, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        threads = torch.get_num_threads()
        train(run, shards, out, Machine("cpu", threads, state=out / "state"), on_epoch=epoch_end)
    return load_file(out / "model.safetensors")


def train_timm(run: Run, photos: Path, epoch_end: EpochEnd, out: Path) -> None:
    """As timm's train.py does it: its loader of a folder, its meter, its schedule, its checkpoint of every epoch."""
    recipe, dataset = run.recipe, run.dataset
    torch.manual_seed(run.seed)
    model = timm.create_model("mobilenetv2_035", num_classes=dataset.num_classes)
    optimizer = build_optimizer(model, recipe)
    loader = create_loader(
        ImageFolder(photos),
        (3, SIZE_PX, SIZE_PX),
        recipe.batch,
        is_training=True,
        use_prefetcher=False,
        scale=recipe.crop_scale,
        ratio=recipe.crop_ratio,
        color_jitter=None,
        interpolation=recipe.interpolation,
        mean=dataset.mean,
        std=dataset.std,
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    scheduler = build_scheduler(optimizer, recipe, len(loader))
    criterion = nn.CrossEntropyLoss()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(out), recovery_dir=str(out), max_history=1)
    for epoch in range(recipe.epochs):
        model.train()
        losses, data_time = AverageMeter(), AverageMeter()
        started = time.time()
        for index, (images, labels) in enumerate(loader):
            data_time.update(time.time() - started)
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), len(images))
            scheduler.step_update(epoch * len(loader) + index)
            started = time.time()
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch, metric=-losses.avg)
        epoch_end()


def compare(arms: dict[str, Callable[[EpochEnd], object]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Whole trainings in turns; what counts is the time from the end of one epoch to the end of the next.

    Returns:
        Per arm: `cpu_s` and `wall_s` of an epoch, each [lower quartile, median, upper quartile].
    """
    names, epochs = list(arms), {name: {"cpu_s": [], "wall_s": []} for name in arms}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            ends: list[tuple[float, float]] = []
            arms[name](lambda *_, ends=ends: ends.append((time.process_time(), time.perf_counter())))
            for before, after in pairwise(ends):
                epochs[name]["cpu_s"].append(after[0] - before[0])
                epochs[name]["wall_s"].append(after[1] - before[1])
    return {name: {clock: quartiles(seconds) for clock, seconds in found.items()} for name, found in epochs.items()}


def checkpoint_seconds(run: Run, folder: Path) -> float:
    """CPU time of saving one checkpoint of the run after a step."""
    state = build_state(run, ALONE)
    model = state.model(torch.zeros(2, 3, SIZE_PX, SIZE_PX))
    model.sum().backward()
    state.optimizer.step()
    with lock(folder) as held:
        state.save(folder, ALONE, held)
        started = time.process_time()
        state.save(folder, ALONE, held)
        return time.process_time() - started


def run(out: Path, *, images: int, epochs: int, rounds: int, threads: int) -> str:
    """Measure, write `trainer.json` and `trainer.md` into `out`, and return the table.

    Args:
        images: Photos of an epoch.
        epochs: Of a training, two at least; the first warms up.

    Raises:
        ValueError: Fewer than two epochs or one batch.
    """
    if epochs < 2 or images < BATCH:
        raise ValueError(f"epochs is {epochs} and images is {images}, expected at least 2 and {BATCH}")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_photos(folder, images)
        dataset = photo_dataset(folder, "small", short_side=SIZE_PX).model_copy(update={"image_size": SIZE_PX})
        shards, spec = make_shards(dataset, folder / "shards"), benchmark_run(dataset, epochs)
        files = write_folder(Shards(shards / dataset.name / "train"), dataset.classes, folder / "files")
        weights: dict[str, dict] = {}
        arms = {
            "bare loop": lambda end: weights.update(bare=train_bare(spec, shards, end)),
            "noah": lambda end: weights.update(noah=train_noah(spec, shards, end, folder / "out")),
            "timm's train.py": lambda end: train_timm(spec, files, end, folder / "timm"),
        }
        times = compare(arms, rounds)
        saving_s = checkpoint_seconds(spec, folder)
    equal = all(torch.equal(tensor, weights["noah"][name]) for name, tensor in weights["bare"].items())
    share = saving_s / (60 * CHECKPOINT_MINUTES)
    table = trainer_table(times, images // BATCH, share)
    results = {"images": images, "epochs": epochs, "rounds": rounds, "same_weights": equal, "epoch": times}
    title = f"The trainer beside its steps: MobileNetV2 0.35, {BATCH} images of {SIZE_PX} px"
    write(out, "trainer", title, {**results, "checkpoint_cpu_s": saving_s, "checkpoint_share": share}, table)
    return "\n".join(markdown(table))


def trainer_table(times: dict, steps: int, checkpoint_share: float) -> list[list[str]]:
    """One row per loop: milliseconds of a step, over the bare loop's, and with a checkpoint every so often."""
    rows = [["loop", "CPU ms a step", "wall ms a step", "over bare, CPU", "with checkpoints", "over bare, wall"]]
    bare = times["bare loop"]
    for name, found in times.items():
        cpu, wall = (found[clock][1] / bare[clock][1] for clock in ("cpu_s", "wall_s"))
        saved = f"{100 * (cpu + checkpoint_share - 1):+.2f}%" if name == "noah" else ""
        milliseconds = [f"{1000 * found[clock][1] / steps:.1f}" for clock in ("cpu_s", "wall_s")]
        rows.append([name, *milliseconds, f"{100 * (cpu - 1):+.2f}%", saved, f"{100 * (wall - 1):+.2f}%"])
    return rows
