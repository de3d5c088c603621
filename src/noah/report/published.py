"""The paper's own numbers, shown beside the measured ones and labelled as published."""

from collections.abc import Callable

import pandas as pd

from noah.backbones import BASELINE_HEAD
from noah.config import Run, Study

PUBLISHED_ON = "ImageNet"
"""Where the numbers of config/published/*.csv were measured."""

_PUBLISHED_NOAH = {
    "score": "softmax",
    "split_groups": True,
    "split_key_value": True,
    "kernel_size": 1,
    "merge": "sum",
}
_NAMES = ("backbone", "published_name")
_COLUMNS = ("backbone", "width", "published_name", "num_heads", "key_ratio", "top1_baseline", "top1_noah")


def published_deltas(study: Study) -> Callable[[Run, Run], tuple[float, str] | tuple[None, None]]:
    """A function from two runs of a backbone to the paper's difference in points and its name for the backbone.

    (None, None) unless the pair is the paper's own: its baseline head and its NOAH, by top-1.

    Raises:
        ValueError: The study names published numbers that are missing or broken.
    """
    table = _read(study)

    def delta(one: Run, other: Run) -> tuple[float, str] | tuple[None, None]:
        row = table.get((one.backbone.name, one.backbone.width))
        if row is None or one.dataset.score != "top1" or not _is_papers_pair(one, other, row):
            return None, None
        return round(row["top1_noah"] - row["top1_baseline"], 2), row["published_name"]

    return delta


def _is_papers_pair(one: Run, other: Run, row: dict) -> bool:
    """Whether `one` has the paper's baseline head and `other` its NOAH, with its N and r (init and dropout aside)."""
    head = other.head.kwargs
    return (
        one.head.name == BASELINE_HEAD.get(one.backbone.family)
        and other.head.name == "noah"
        and (head["num_heads"], head["key_ratio"]) == (row["num_heads"], row["key_ratio"])
        and all(head.get(field, value) == value for field, value in _PUBLISHED_NOAH.items())
    )


def _read(study: Study) -> dict[tuple[str, float], dict]:
    """By backbone and width; empty where the study names none."""
    if study.spec.published is None:
        return {}
    path = study.path.parent.parent / "published" / f"{study.spec.published}.csv"
    if not path.is_file():
        raise ValueError(f"{path}: no such file, which {study.path} names as its published numbers")
    try:
        table = pd.read_csv(path)
        numbers = [column for column in _COLUMNS if column in table and column not in _NAMES]
        table = table.astype(dict.fromkeys(numbers, "float64"))
    except (ValueError, TypeError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path}: not the paper's numbers: {' '.join(str(error).split())[:300]}") from None
    absent = [column for column in _COLUMNS if column not in table.columns]
    if absent:
        raise ValueError(f"{path}: missing column '{absent[0]}', expected {', '.join(_COLUMNS)}")
    return {(row["backbone"], row["width"]): row for row in table.to_dict("records")}
