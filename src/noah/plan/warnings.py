"""What is known to fail, or to be of little use, of the models and recipes that a study is going to train."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from noah.config import Study
from noah.data.shards import shards_hint
from noah.plan.rows import missing_weights

SIGNATURES: dict[str, tuple[Callable[[float], bool], str]] = {
    "channels_per_head": (lambda value: value < 16, "fewer than 16 channels for each head of NOAH (C/N)"),
    "images_per_class_and_head": (
        lambda value: value < 50,
        "fewer than 50 training images per class for each head of NOAH",
    ),
    "head_memory_share": (lambda value: value > 0.25, "the head keeps more than a quarter of a training step's memory"),
    "steps_per_epoch": (
        lambda value: value < 10,
        "fewer than 10 optimizer steps per epoch, which makes curves and schedules coarse",
    ),
}
"""Columns of the plan, when their value is a failure signature, and what the warning says. 50 images are our rule of
thumb, which study failure-signatures puts to the test. So are 10 steps: the loss of an epoch is then the mean of few
batches, minival is scored as seldom, and a warm-up of one epoch is a stair of 10 treads."""


def plan_warnings(study: Study, plan: pd.DataFrame) -> list[str]:
    """A line for each failure signature of a dataset and recipe, for shards of an odd size, for weights not there."""
    lines = []
    for column, (is_bad, text) in SIGNATURES.items():
        for (dataset, recipe), rows in plan.groupby(["dataset", "recipe"], sort=False):
            if found := _bad_rows(rows, rows[column].astype(float), is_bad):
                lines.append(f"warning: {text}: {dataset}/{recipe}: {', '.join(found)}")
    for dataset in study.datasets.values():
        for split in dataset.splits:
            if hint := shards_hint(dataset, split, Path("shards") / dataset.name / split):
                lines.append(f"hint: {hint}")
    return lines + [f"warning: {problem}" for problem in missing_weights(study)]


def _bad_rows(rows: pd.DataFrame, values: pd.Series, is_bad: Callable[[float], bool]) -> list[str]:
    """`backbone/arm value` of those that are bad; `backbone value` where all its arms are, to the same value."""
    found = []
    for backbone, arms in rows["arm"].groupby(rows["backbone"], sort=False):
        bad = {arm: f"{values[i]:.2g}" for i, arm in arms.items() if is_bad(values[i])}
        if len(bad) == len(arms) and len(set(bad.values())) == 1:
            found.append(f"{backbone} {next(iter(bad.values()))}")
        else:
            found += [f"{backbone}/{arm} {value}" for arm, value in bad.items()]
    return found
