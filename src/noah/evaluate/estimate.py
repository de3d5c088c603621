"""How fast and how large training will be, estimated from a model on the meta device: nothing is computed.

Speed is that of a machine which first does the arithmetic and then moves the memory, at fixed shares of what it could:

    seconds per image = 6 * MACs / FLOPs per second + PASSES * bytes kept for backward / bytes per second

6 * MACs: two FLOPs each, once forward and twice backward. PASSES: how often each byte that autograd keeps is moved, by
its own forward and backward and by what is not kept. UTILISATION and PASSES solve this equation for two published runs
on A100 (312 TFLOP/s bf16, 1.55 TB/s), both at 176 pixels on average, channels-last and mixed precision
(libffcv/ffcv-imagenet): ResNet18, 16 epochs in 35 minutes on one, 9,760 images/s; ResNet50, 88 epochs in 77 minutes on
eight, 3,050 images/s each. Other GPUs and families are an extrapolation: expect +-40%, and a loader that keeps up.
"""

import statistics
from dataclasses import dataclass

import pandas as pd

from noah.config import Run, Study
from noah.devices import HALF
from noah.files import reading

BASES = {
    "measured": "median epoch of a run of this study with the same config",
    "estimated": "+-40%, from MACs and memory moved (noah/evaluate/estimate.py), for {device}",
}
"""What images/s can rest on."""

UTILISATION = 0.49
PASSES = 13.2


@dataclass(frozen=True)
class Device:
    """What the formula needs to know of a machine: FLOP/s and bytes/s that training really gets."""

    name: str
    unit: str
    flops: dict[str, float]
    """Per precision of a recipe."""
    bandwidth: float


H100 = Device(
    "one H100 SXM (989 TFLOP/s bf16, 494 tf32, 67 fp32; 3.35 TB/s)",
    "GPU-hours",
    {
        name: UTILISATION * peak
        for name, peak in {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12, "fp32": 67e12}.items()
    },
    3.35e12 / PASSES,
)
CPU_CORE = Device("one core", "core-hours", dict.fromkeys(("fp32", "tf32", "bf16", "fp16"), 80e9), 1.7e9)
"""Effective rates, fitted to one-core runs of the default study on an AMD EPYC, 2026-11-21: they give the 421, 745 and
898 images/s of its MobileNetV2, DeiT and gMLP baselines to 7%."""


def planned_device(study: Study) -> Device:
    """What the study's resources ask for, once; how many is for the caller."""
    return H100 if study.spec.resources.gpus else CPU_CORE


def find_throughput(study: Study, run: Run, model: dict) -> tuple[float, str]:
    """Training images/s of a run, one process on one device, and what that rests on: a key of `BASES`.

    Args:
        model: `macs` and `kept` of one image.
    """
    for seed in study.spec.seeds:
        same = run.model_copy(update={"seed": seed})
        folder = study.results / "runs" / same.key
        config, history = folder / "run.yaml", folder / "history.csv"
        if config.is_file() and history.is_file() and config.read_text(encoding="utf-8") == same.to_yaml():
            with reading(history):
                return statistics.median(pd.read_csv(history).images_per_s.astype(float)), "measured"
    device, precision = planned_device(study), run.recipe.precision
    share = share_of_pixels(run)
    speed = images_per_second(share * model["macs"], share * model["kept"], device, precision)
    return speed * (1 if study.spec.resources.gpus else study.spec.resources.cpus), "estimated"


def share_of_pixels(run: Run) -> float:
    """Of the full image, averaged over the epochs: below 1 where training begins with small images."""
    full = run.dataset.image_size
    return statistics.mean((run.recipe.train_size(epoch, full) / full) ** 2 for epoch in range(run.recipe.epochs))


def images_per_second(macs: float, kept: float, device: Device, precision: str) -> float:
    """The formula at the top of this file.

    Args:
        macs: Multiply-accumulates of one image, forward.
        kept: Numbers that its backward pass needs (noah.models.memory).
        precision: A recipe's.
    """
    size = 2 if precision in HALF else 4
    return 1 / (6 * macs / device.flops[precision] + size * kept / device.bandwidth)
