"""`noah plan STUDY --on h100x8`: what a node has to deliver, and what the whole study takes on it.

Everything is calculated. Speed is `noah.evaluate.estimate`'s, +-40%. Runs that share a node are taken not to slow each
other down, and a run on several cards to be as many times as fast.
"""

import json
from pathlib import Path

import pandas as pd

from noah.config import Dataset, Run, Study
from noah.evaluate.estimate import images_per_second, share_of_pixels
from noah.files import reading
from noah.plan.machines import Node
from noah.plan.rows import run_of

PHOTO_BYTES = 115_440
"""Of an ImageNet photo: its training archive, 147,897,477,120 bytes, over 1,281,167 images."""
PHOTOS_PER_CORE_S = 845
SMALL_PHOTOS_PER_CORE_S = 1659
"""Decoded, cropped and resized to 224 pixels by one core of an AMD EPYC, of such photos and of ones whose short side is
256 pixels: `noah benchmark loader`, 2026-11-22 (docs/benchmarks)."""
RAND_AUGMENT_SHARE = 0.60
"""Of that speed, with RandAugment: the same report."""
CHECKPOINTS_PER_HOUR = 6
GIB = 2**30


def scale_rows(study: Study, plan: pd.DataFrame, node: Node) -> pd.DataFrame:
    """A row per row of the plan: the speed of one card, and what it takes and needs.

    Args:
        plan: Of `make_plan`.

    Returns:
        dataset, recipe, backbone, arm; images_per_s, gpu_hours of all seeds, memory_gib of a card, and for a node that
        trains nothing else node_images_per_s, node_mb_per_s of shards, cores_per_gpu that decode; checkpoint_mb.
    """
    rows = []
    for planned in plan.itertuples():
        run = run_of(study, planned)
        share = share_of_pixels(run)
        # What the head keeps depends on its kernel: on a GPU hardly anything.
        kept = planned.kept_for_backward - planned.head_kept_for_backward
        speed = images_per_second(share * planned.macs, share * kept, node.device, run.recipe.precision)
        images = run.dataset.training_images()
        copies = {"sgd": 2, "adamw": 3}[run.recipe.optimizer] + (run.recipe.ema_decay is not None)
        buckets = 4 * planned.parameters if study.spec.resources.ranks > 1 else 0  # of gradients on their way
        rows.append(
            {
                "dataset": planned.dataset,
                "recipe": planned.recipe,
                "backbone": planned.backbone,
                "arm": planned.arm,
                "images_per_s": speed,
                "gpu_hours": run.recipe.epochs * images / speed / 3600 * planned.runs if images else None,
                "memory_gib": (run.recipe.step_bytes(planned.parameters, kept) + buckets) / GIB,
                "node_images_per_s": speed * node.gpus,
                "node_mb_per_s": speed * node.gpus * image_bytes(run.dataset)[0] / 1e6,
                "cores_per_gpu": speed / decoded_per_core_s(run),
                "checkpoint_mb": copies * 4 * planned.parameters / 1e6,
            }
        )
    return pd.DataFrame(rows)


def image_bytes(dataset: Dataset, shards: Path = Path("shards")) -> tuple[float, str]:
    """Of one image in its shards, and what that rests on: `measured` of the shards that are here, or `assumed`."""
    path = shards / dataset.name / "train" / "manifest.json"
    if path.is_file():
        with reading(path):
            entries = json.loads(path.read_text(encoding="utf-8"))["shards"]
        return sum(entry["bytes"] for entry in entries) / sum(entry["samples"] for entry in entries), "measured"
    return PHOTO_BYTES, "assumed"


def decoded_per_core_s(run: Run) -> float:
    """Photos that one core makes ready."""
    speed = SMALL_PHOTOS_PER_CORE_S if run.dataset.reencode else PHOTOS_PER_CORE_S
    return speed * (RAND_AUGMENT_SHARE if run.recipe.rand_augment else 1)


def scale_lines(study: Study, plan: pd.DataFrame, node: Node) -> list[str]:
    """The table, its totals, and what they rest on."""
    rows = scale_rows(study, plan, node)
    header = ["", "images/s", "GPU-hours", "GiB", "node images/s", "MB/s", "cores/GPU", "checkpoint MB"]
    table = [
        [
            f"{row.backbone} {row.arm}",
            f"{row.images_per_s:,.0f}",
            "" if pd.isna(row.gpu_hours) else f"{row.gpu_hours:,.1f}",
            f"{row.memory_gib:.1f}" + ("!" if row.memory_gib > node.card.memory_gib else ""),
            f"{row.node_images_per_s:,.0f}",
            f"{row.node_mb_per_s:,.0f}",
            f"{row.cores_per_gpu:.1f}",
            f"{row.checkpoint_mb:,.0f}",
        ]
        for row in rows.itertuples()
    ]
    widths = [max(len(line[i]) for line in [header, *table]) for i in range(len(header))]
    lines = [f"On {node.name}: cards of {node.card.memory_gib:g} GiB, {node.gpus} in a node", ""]
    for line in [header, *table]:
        first, *others = line
        lines.append("  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip())
    return [*lines, "", *_totals(study, rows, node)]


def _totals(study: Study, rows: pd.DataFrame, node: Node) -> list[str]:
    hours, worst = rows.gpu_hours.sum(), rows.loc[rows.node_mb_per_s.idxmax()]
    traffic = rows.checkpoint_mb.max() * CHECKPOINTS_PER_HOUR * node.gpus / study.spec.resources.ranks / 1000
    bases = {image_bytes(dataset)[1] for dataset in study.datasets.values()}
    lines = [
        f"In all {hours:,.1f} GPU-hours: {hours / node.gpus / 24:,.1f} days of one node.",
        f"Most data: {worst.backbone} {worst.arm}, {worst.node_mb_per_s:,.0f} MB/s of shards for a node.",
        f"Checkpoints: at most {traffic:,.1f} GB an hour from a node, with one every ten minutes.",
        "Calculated, +-40%: images/s without the loader (noah/evaluate/estimate.py); memory is the least a step holds.",
    ]
    if "assumed" in bases:
        lines.append(
            f"Assumed: {PHOTO_BYTES / 1000:.0f} KB an image, ImageNet's mean; of shards that are here it is measured."
        )
    if (too_small := rows[rows.memory_gib > node.card.memory_gib]).size:
        names = ", ".join(f"{row.backbone} {row.arm}" for row in too_small.itertuples())
        lines.append(f"warning: a step does not fit into {node.card.memory_gib:g} GiB (!): {names}")
    return lines
