"""The paper's own numbers, shown beside the measured ones and labelled as published."""

from collections.abc import Callable

from noah.backbones import BASELINE_HEAD
from noah.config import Run, Study
from noah.published import read_published

PUBLISHED_ON = "ImageNet"
"""Where the numbers of config/published/*.csv were measured."""

_PUBLISHED_NOAH = {
    "score": "softmax",
    "split_groups": True,
    "split_key_value": True,
    "kernel_size": 1,
    "merge": "sum",
}


def published_deltas(study: Study) -> Callable[[Run, Run], tuple[float, str] | tuple[None, None]]:
    """A function from two runs of a backbone to the paper's difference in points and its name for the backbone.

    (None, None) unless the pair is the paper's own: its baseline head and its NOAH, by top-1.

    Raises:
        ValueError: The study names published numbers that are missing or broken.
    """
    table = read_published(study)

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
