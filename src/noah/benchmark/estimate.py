"""`noah benchmark estimate`: training steps on this CPU, each foretold from the others by the formula of `noah plan`.

Of one machine the formula has two numbers, FLOPs per second and bytes per second (`noah.evaluate.estimate`). They are
fitted to all models but one, by least squares of relative errors, and foretell that one.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from noah.benchmark.interleaved import markdown, write
from noah.evaluate.cost import count_macs
from noah.models import build_model
from noah.models.memory import kept_for_backward

MODELS = {
    "resnet18": 160,
    "resnet50": 128,
    "mobilenetv2": 128,
    "mobilenetv3_small": 160,
    "shufflenetv2": 160,
    "deit_tiny": 160,
    "deit_small": 160,
    "pvt_tiny": 128,
    "gmlp_tiny": 160,
    "mixer_small": 160,
}
"""Backbone -> side of the images, in pixels. On smaller ones weights move more bytes than activations do."""
CLASSES = 100


def run(out: Path, batch: int = 16, rounds: int = 5) -> str:
    """Measure, write `estimate.json` and `estimate.md` into `out` and return the table."""
    torch.set_num_threads(1)
    works = np.array([_work(name, size) for name, size in MODELS.items()])
    measured = np.array([_seconds(name, size, batch, rounds) for name, size in MODELS.items()])
    ratios = foretold(works, measured) / measured
    rows = [
        [name, str(size), f"{1 / seconds:.1f}", f"{ratio:.2f}"]
        for (name, size), seconds, ratio in zip(MODELS.items(), measured, ratios, strict=True)
    ]
    table = [["backbone", "pixels", "images/s", "time foretold over measured"], *rows]
    results = {name: {"s_per_image": s, "ratio": r} for name, s, r in zip(MODELS, measured, ratios, strict=True)}
    title = "Training steps on one core, each foretold from the others by the formula of `noah plan`"
    write(out, "estimate", title, {"batch": batch, "rounds": rounds, "results": results}, table)
    return "\n".join(markdown(table))


def foretold(works: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Seconds of each, from a machine fitted to the others.

    Args:
        works: (K, 2), FLOPs and bytes of an image.
        seconds: (K,), of an image.
    """
    found = []
    for left_out in range(len(works)):
        others = np.arange(len(works)) != left_out
        per = np.linalg.lstsq(works[others] / seconds[others, None], np.ones(others.sum()), rcond=None)[0]
        found.append(works[left_out] @ per)
    return np.array(found)


def _work(name: str, size: int) -> tuple[float, float]:
    with torch.device("meta"):
        model = build_model(name, "gap", img_size=size, num_classes=CLASSES).eval()
    macs = count_macs(model, torch.zeros(1, 3, size, size, device="meta"))["macs"]
    return 6 * macs, 4 * kept_for_backward(model, size)["kept"]


def _seconds(name: str, size: int, batch: int, rounds: int) -> float:
    """CPU time of a step for one image, the median after one that warms up."""
    model = build_model(name, "gap", img_size=size, num_classes=CLASSES).train()
    images, labels = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.int64)
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        F.cross_entropy(model(images), labels).backward()
        model.zero_grad()
        times.append(time.process_time() - start)
    return statistics.median(times[1:]) / batch
