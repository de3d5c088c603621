"""What the switches of a recipe save, on whole training steps with NOAH's head."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch

from noah.benchmark.alone import alone
from noah.benchmark.interleaved import markdown, measure, write
from noah.benchmark.memory import usual
from noah.benchmark.roof import check_device
from noah.benchmark.step import (
    GPU_BATCH,
    LARGEST_BATCH,
    check_backbone,
    random_batch,
    remember_first,
    run_of,
    step_of,
)
from noah.heads.kernels.compiled import has_compiler
from noah.models import build_model

_HALF = {"precision": "bf16", "channels_last": True}
SWITCHES = {
    "plain": {},
    "two passes": {"passes": 2},
    "fused": {"fused": True},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16, channels_last": _HALF,
    "compile": {"compile": True},
    "compile, bf16, channels_last": {"compile": True, **_HALF},
    "compile, bf16, channels_last, cuda_graphs": {"compile": True, "cuda_graphs": True, **_HALF},
}
"""Name to fields of a recipe, and `passes` per step. CUDA graphs are for GPUs."""
SMALL = ["mobilenetv2-w0.5", "resnet18-w1", "deit_tiny-w1"]


def switch_arms(
    backbone: str,
    switches: list[str],
    *,
    batch: int = LARGEST_BATCH,
    image_size: int = 224,
    num_classes: int = 1000,
    device: str = "cpu",
) -> dict[str, Callable[[], float]]:
    """Training steps of one backbone with NOAH's head, under the switches of a recipe by name of `SWITCHES`."""
    name, _, width = backbone.rpartition("-w")
    shape = {"width": float(width), "num_classes": num_classes, "img_size": image_size}
    model, images = build_model(name, "noah", **shape), random_batch(batch, image_size, num_classes)
    arms = {}
    for switch in switches:
        fields = dict(SWITCHES[switch])
        fields["micro_batch"] = batch // fields.pop("passes", 1)
        run = run_of(name, float(width), batch, image_size, num_classes, **fields)
        arms[switch] = step_of(run, copy.deepcopy(model), images, device)
    return arms


def benchmark_switch(backbone: str, switches: list[str], rounds: int, **options) -> dict:
    """`backbone`, `times` of `measure`, and `loss`: the first of each setting."""
    torch.manual_seed(0)
    arms, losses = remember_first(switch_arms(backbone, switches, **options))
    return {"backbone": backbone, "times": measure(arms, rounds), "loss": losses}


def switch_table(results: list[dict], clock: str = "cpu") -> list[list[str]]:
    """One row per backbone and setting: milliseconds, and how many times faster than the plain step.

    Args:
        clock: `cpu` or `wall`: whose time counts first. That of a GPU is `wall`.
    """
    rows = [["backbone", "switch", f"{clock} ms", f"plain / this, {clock}", "quartiles", "wall", "first loss"]]
    for result in results:
        for switch, times in result["times"].items():
            low, ratio, high = times.get(f"{clock}_ratio", [1.0] * 3)
            wall = times.get("wall_ratio", [1.0] * 3)[1]
            rows.append(
                [
                    result["backbone"],
                    switch,
                    f"{1000 * times[f'{clock}_s'][1]:.0f}",
                    f"{ratio:.2f}x",
                    f"{low:.2f}-{high:.2f}",
                    f"{wall:.2f}x",
                    f"{result['loss'][switch]:.4f}",
                ]
            )
    return rows


def switches_for(device: str) -> list[str]:
    """Names of `SWITCHES` that mean something there: compiling needs a compiler, CUDA graphs need a GPU."""
    cannot = set() if has_compiler() else {"compile"}
    cannot |= set() if device == "cuda" else {"cuda_graphs"}
    return [name for name, fields in SWITCHES.items() if not cannot & fields.keys()]


def run_switches(
    out: Path,
    backbones: list[str],
    switches: list[str] | None,
    *,
    rounds: int,
    threads: int,
    batch: int | None,
    device: str = "cpu",
) -> str:
    """Measure, write `switches.json` and `switches.md` into `out`, and return the table.

    Args:
        switches: Names of `SWITCHES`; None: `switches_for` the device.

    Raises:
        ValueError: An unknown backbone, switch or device, or a device that is not here.
    """
    check_device(device)
    for name in backbones:
        check_backbone(name)
    for name in switches or []:
        if name not in SWITCHES:
            raise ValueError(f"switch is '{name}', expected one of: {'; '.join(SWITCHES)}")
    on_gpu = device == "cuda"
    batch = batch or (GPU_BATCH if on_gpu else LARGEST_BATCH)
    switches = switches or switches_for(device)
    own = {"threads": threads, "memory": None if on_gpu else usual()}
    results = [alone(benchmark_switch, name, switches, rounds, batch=batch, device=device, **own) for name in backbones]
    table = switch_table(results, "wall" if on_gpu else "cpu")
    where = f", {torch.cuda.get_device_name()}" if on_gpu else ""
    title = f"The switches of a recipe: training steps with NOAH's head, {batch} images of 224 px, 1,000 classes{where}"
    torch.set_num_threads(threads)  # which the report names
    write(out, "switches", title, {"device": device, "rounds": rounds, "batch": batch, "results": results}, table)
    return "\n".join(markdown(table))
