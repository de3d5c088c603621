"""Metrics of multi-label records, as papers on MS-COCO give them.

Class averages leave out the classes without an image in the split: nothing can be said of them. (COCO has none.)
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from noah.average_precision import class_average_precisions
from noah.files import read_parquet

THRESHOLDS = b"noah.thresholds"
"""Where predictions.parquet keeps the threshold of each class."""
TOP = 3


def read_multi_label(path: Path, num_classes: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Prediction records of a multi-label run, checked.

    Returns:
        keys; targets, bool (S, M); scores, float32 (S, M): logits; thresholds, float64 (M,): probabilities.

    Raises:
        ValueError: The file is missing or holds something else.
    """
    try:
        table = read_parquet(path, ["key", "labels", "scores"])
        thresholds = json.loads((table.schema.metadata or {})[THRESHOLDS])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except KeyError:
        raise ValueError(f"{path}: metadata: missing key '{THRESHOLDS.decode()}'") from None
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise ValueError(f"{path}: not prediction records: {' '.join(str(error).split())}") from None
    labels, scores = table["labels"].combine_chunks(), table["scores"].combine_chunks()
    numbers = labels.flatten().to_numpy()
    keys, images = table["key"].to_pylist(), labels.value_parent_indices().to_numpy()
    wrong = np.flatnonzero((numbers < 0) | (numbers >= num_classes))
    if len(wrong):
        key, label = keys[images[wrong[0]]], numbers[wrong[0]]
        raise ValueError(f"{path}: labels of key '{key}' hold {label}, expected 0 to {num_classes - 1}")
    values = scores.flatten().to_numpy()
    if len(values) != len(keys) * num_classes or len(thresholds) != num_classes:
        raise ValueError(f"{path}: scores: got {len(values)} of {len(keys)} images, expected {num_classes} of each")
    values = values.reshape(len(keys), num_classes)
    lost = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(lost):
        raise ValueError(f"{path}: scores of key '{keys[lost[0]]}': expected finite numbers: training diverged")
    targets = np.zeros(values.shape, bool)
    targets[images, numbers] = True
    return keys, targets, values, np.array(thresholds)


def multi_label_metrics(targets: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> dict:
    """All in percent but the loss.

    Args:
        targets: bool (S, M).
        scores: (S, M), logits.
        thresholds: (M,), probabilities.

    Returns:
        `map` and `per_class_ap` (None for a class without images); `cp`, `cr`, `cf1`, `op`, `or`, `of1` of what is
        predicted with a probability of 0.5 or more, `…_top3` of the three best classes of every image whatever their
        probability, `…_chosen` of what reaches its class's threshold; `loss`, binary cross-entropy in nats per image
        and class.
    """
    scores = scores.astype(np.float64)
    per_class = class_average_precisions(scores, targets)
    known = per_class[~np.isnan(per_class)]
    top = np.zeros(targets.shape, bool)
    np.put_along_axis(top, np.argsort(-scores, axis=1, kind="stable")[:, :TOP], True, axis=1)
    probabilities = 1 / (1 + np.exp(-scores))
    return {
        "map": float(known.mean()) if len(known) else None,
        "per_class_ap": [None if np.isnan(value) else float(value) for value in per_class],
        **precision_and_recall(targets, scores >= 0),
        **precision_and_recall(targets, top, f"_top{TOP}"),
        **precision_and_recall(targets, probabilities >= thresholds, "_chosen"),
        "loss": float((np.logaddexp(0, scores) - targets * scores).mean()),
    }


def precision_and_recall(targets: np.ndarray, predicted: np.ndarray, suffix: str = "") -> dict[str, float]:
    """Precision, recall and their harmonic mean in percent, per class (C) and overall (O).

    CF1 is made of the class means CP and CR; it is not the mean of the classes' F1. A class that is never predicted has
    precision 0.

    Args:
        targets: bool (S, M).
        predicted: bool (S, M).
        suffix: Ends the names.
    """
    right, chosen, wanted = (array.sum(axis=0) for array in (targets & predicted, predicted, targets))
    known = wanted > 0
    per_class = np.mean(right[known] / np.maximum(chosen[known], 1)), np.mean(right[known] / wanted[known])
    overall = right.sum() / max(chosen.sum(), 1), right.sum() / max(wanted.sum(), 1)
    found = {}
    for letter, (precision, recall) in (("c", per_class), ("o", overall)):
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        for name, value in (("p", precision), ("r", recall), ("f1", f1)):
            found[f"{letter}{name}{suffix}"] = 100 * float(value)
    return found
