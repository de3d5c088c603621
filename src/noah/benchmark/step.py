"""Whole training steps: what NOAH adds to the same backbone with a mean and a linear layer.

Every step is the trainer's own: normalise, forward, loss, backward, update. On a GPU a step ends when the GPU is done.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from noah.backbones import BACKBONES
from noah.benchmark.alone import alone
from noah.benchmark.interleaved import markdown, measure, write
from noah.benchmark.memory import usual
from noah.benchmark.official import Official, Shape
from noah.benchmark.roof import check_device, wait_for
from noah.config import Dataset, Recipe, Run
from noah.engine.compiled import Parts, compiled
from noah.engine.distributed import World
from noah.engine.optim import build_optimizer
from noah.engine.state import TrainState
from noah.engine.step import Losses, stepper
from noah.evaluate.cost import count_macs
from noah.heads.kernels.compiled import has_compiler
from noah.heads.positions import as_map
from noah.models import Classifier, build_model

GOALS = {"mobilenetv2-w0.5": 1.20, "mobilenetv2-w1": 1.12, "resnet18-w1": 1.05, "deit_tiny-w1": 1.10}
"""Time over that of the mean's step, at most, at `LARGEST_BATCH` images, for the compiled head on a CPU."""
LARGEST_BATCH = 16
GPU_BATCH = 256
GPU_GOAL = 1.03
GMACS_PER_STEP = 8
"""Of a forward pass: larger backbones without a goal see fewer images, two at least."""


class OfficialHead(Official):
    """The official formulation on what our backbones hand on: a map or tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(as_map(x, self.query.in_channels + self.value.in_channels))


def published() -> list[str]:
    """Every backbone of the paper at every width: `mobilenetv2-w0.5`."""
    return [f"{name}-w{width:g}" for name, backbone in BACKBONES.items() for width in backbone.widths]


def check_backbone(name: str) -> None:
    """ValueError unless it is one of `published`."""
    if name not in published():
        raise ValueError(f"backbone is '{name}', expected one of {', '.join(published())}")


def step_arms(
    backbone: str,
    impls: list[str],
    *,
    batch: int | None = None,
    image_size: int = 224,
    num_classes: int = 1000,
    dropout: bool = False,
    device: str = "cpu",
    **switches,
) -> tuple[dict[str, Callable[[], float]], int]:
    """Training steps of one backbone with different heads, on the same random images; those of NOAH are equal.

    Args:
        backbone: As `published` names them.
        impls: Of NOAH; names of `noah.heads.kernels.IMPLEMENTATIONS`.
        batch: Images of a step; default: `default_batch`.
        dropout: Whether NOAH's values are dropped as in the paper.
        switches: Fields of the recipe, such as `channels_last`, `precision`, `compile`.

    Returns:
        What does one step and returns its loss: `gap`, `official` and one per implementation; and the batch.
    """
    check_backbone(backbone)
    name, _, width = backbone.rpartition("-w")
    rate = BACKBONES[name].drop_rate if dropout else 0.0
    shape = {"width": float(width), "num_classes": num_classes, "img_size": image_size}
    models = {"gap": build_model(name, "gap", **shape)}
    noah = build_model(name, "noah", drop_rate=rate, impl="reference", **shape)
    batch = batch or default_batch(backbone, noah, device)
    head = noah.get_classifier()
    models["official"] = copy.deepcopy(noah)
    models["official"].head = OfficialHead(
        Shape(head.in_features, head.num_heads, head.key_ratio, side=0, num_classes=num_classes), rate
    )
    models["official"].head.load_state_dict(head.state_dict())
    for impl in impls:
        models[impl] = build_model(name, "noah", drop_rate=rate, impl=impl, **shape)
        models[impl].load_state_dict(noah.state_dict())
    run = run_of(name, float(width), batch, image_size, num_classes, **switches)
    images = random_batch(batch, image_size, num_classes)
    return {arm: step_of(run, model, images, device) for arm, model in models.items()}, batch


def default_batch(backbone: str, model: Classifier, device: str) -> int:
    """On a GPU `GPU_BATCH`; else `LARGEST_BATCH` where there is a goal, and elsewhere as many images, from 2 on, as
    `GMACS_PER_STEP` allows."""
    if device == "cuda":
        return GPU_BATCH
    if backbone in GOALS:
        return LARGEST_BATCH
    return max(2, min(LARGEST_BATCH, int(GMACS_PER_STEP * 1e9 / count_macs(*model.on_meta())["macs"])))


def step_of(run: Run, model: nn.Module, batch: tuple[Tensor, Tensor], device: str = "cpu") -> Callable[[], float]:
    """The trainer's step on the same images and labels again and again; returns the loss before the update."""
    group = [(*part, None) for part in zip(*(t.split(run.recipe.forward_batch) for t in batch), strict=True)]
    device = torch.device(device)
    model = model.to(device)
    if run.recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    state = TrainState(model, build_optimizer(model, run.recipe))
    network = compiled(Parts(model), run.recipe) if run.recipe.compile else model
    once = stepper(run, network, state, World(0, 1, device), Losses(run, state, lag=0))

    def step() -> float:
        loss = once(group, run.recipe.lr)
        wait_for(device)
        return loss

    return step


def remember_first(arms: dict[str, Callable[[], float]]) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """The same arms, and the first loss of each, which comes to stand there when the arm is called."""
    losses: dict[str, float] = {}

    def remembering(name: str, arm: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            loss = arm()
            losses.setdefault(name, loss)

        return call

    return {name: remembering(name, arm) for name, arm in arms.items()}, losses


def benchmark_step(backbone: str, impls: list[str], rounds: int, **options) -> dict:
    """`backbone`, `batch`, `times` of `measure`, and `difference`: of the first loss to that of the official head, as a
    share of it. `options` are those of `step_arms`."""
    torch.manual_seed(0)
    arms, batch = step_arms(backbone, impls, **options)
    arms, losses = remember_first(arms)
    times = measure(arms, rounds)
    official = losses["official"]
    difference = {impl: abs(losses[impl] - official) / abs(official) for impl in impls}
    return {"backbone": backbone, "batch": batch, "times": times, "difference": difference}


def step_table(results: list[dict], device: str = "cpu", *, plain: bool = True) -> list[list[str]]:
    """One row per backbone: milliseconds with the mean, and time over it with each implementation of NOAH.

    Args:
        device: On `cpu` CPU time counts, on `cuda` wall time.
        plain: Whether this is what the goals of a CPU are for: float32 without dropout or other switches.
    """
    heads, clock = list(results[0]["times"])[1:], "cpu" if device == "cpu" else "wall"
    goal_of = "compile" if device == "cpu" else "triton"
    rows = [["backbone", "B", f"gap, {clock} ms", *(f"{head} / gap" for head in heads), f"goal, {goal_of}"]]
    for result in results:
        goal = GPU_GOAL
        if device == "cpu":
            goal = GOALS.get(result["backbone"]) if plain and result["batch"] == LARGEST_BATCH else None
        times = result["times"]
        ratios = [_over(times[head][f"{clock}_ratio"]) for head in heads]
        milliseconds = f"{1000 * times['gap'][f'{clock}_s'][1]:.0f}"
        rows.append([result["backbone"], str(result["batch"]), milliseconds, *ratios, f"{goal:.2f}" if goal else ""])
    return rows


def run_steps(
    out: Path,
    backbones: list[str],
    impls: list[str] | None,
    *,
    rounds: int,
    threads: int,
    device: str = "cpu",
    **options,
) -> str:
    """Measure, write `step.json` and `step.md` into `out`, and return the table.

    Args:
        impls: None: all that the device runs.
        options: Of `step_arms`.

    Raises:
        ValueError: An unknown backbone or device, or a device that is not here.
    """
    check_device(device)
    for name in backbones:
        check_backbone(name)
    impls = impls or (["triton"] if device == "cuda" else ["cpu", *(["compile"] if has_compiler() else [])])
    own = {"threads": threads, "memory": usual() if device == "cpu" else None}
    results = [alone(benchmark_step, name, impls, rounds, device=device, **options, **own) for name in backbones]
    settings = {name: value for name, value in options.items() if value and name != "batch"}
    switches = {name: value for name, value in settings.items() if value != "fp32"}
    said = ["", *(name if value is True else str(value) for name, value in switches.items())]
    said += [torch.cuda.get_device_name()] if device == "cuda" else []
    title = f"Whole training steps at 224 px and 1,000 classes, NOAH over a mean{', '.join(said)}"
    table = step_table(results, device, plain=not switches)
    torch.set_num_threads(threads)  # which the report names
    write(out, "step", title, {"device": device, "rounds": rounds, **settings, "results": results}, table)
    return "\n".join(markdown(table))


def run_of(name: str, width: float, batch: int, image_size: int, num_classes: int, **recipe) -> Run:
    dataset = Dataset(
        name="random",
        source="folder",
        root="",
        classes=num_classes,
        image_size=image_size,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        splits={"train": {"num_shards": 1}, "test": {"num_shards": 1}},
    )
    optimizer = "sgd" if BACKBONES[name].family == "cnn" else "adamw"
    settings = Recipe(epochs=1, batch=batch, lr=1e-5, optimizer=optimizer, weight_decay=1e-4, **recipe)
    backbone = {"name": name, "width": width}
    return Run(
        dataset=dataset,
        recipe_name="benchmark",
        recipe=settings,
        backbone=backbone,
        arm="noah",
        head={"name": "gap"},
        seed=0,
    )


def random_batch(batch: int, image_size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    images = torch.randint(256, (batch, 3, image_size, image_size), dtype=torch.uint8)
    return images, torch.randint(num_classes, (batch,))


def _over(ratio: list[float]) -> str:
    """`1.23 (1.20-1.27)`: this one's time over the first's, from quartiles of the opposite."""
    low, middle, high = (1 / value for value in reversed(ratio))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
