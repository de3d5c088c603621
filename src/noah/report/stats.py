"""The difference between two arms and how sure we are of it: seeds and images both count."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import pandas as pd
from scipy.stats import binomtest, t

from noah.average_precision import average_precision, mean_average_precision

CONFIDENCE = 0.95
RESAMPLES = {"top1": 10_000, "map": 1_000}
"""Of the images, by score."""
_AT_ONCE = 250
"""Resamples of images in memory: 4 bytes for each image of each."""


@dataclass(frozen=True)
class Difference:
    """Score of arm `to` minus arm `from`, in percentage points."""

    delta: float
    """Mean over seeds."""
    per_seed: tuple[float, ...]
    half_width_seeds: float | None
    """Student's t over the seeds' differences; None with one seed."""
    half_width_images: float
    """Half the 95% percentile interval over paired resamples of the images."""
    mcnemar_p: tuple[float, ...] | None
    """Exact and two-sided, one per seed; None where no image is right or wrong as a whole (mAP)."""
    images: int

    @property
    def half_width(self) -> float:
        """sqrt(seeds² + images²); with one seed, seeds are not covered."""
        return float(np.hypot(self.half_width_seeds or 0.0, self.half_width_images))

    @property
    def seeds_covered(self) -> bool:
        return self.half_width_seeds is not None

    @property
    def mcnemar_p_median(self) -> float | None:
        return median(self.mcnemar_p) if self.mcnemar_p else None


def top1_difference(
    correct_from: np.ndarray, correct_to: np.ndarray, *, resamples: int = RESAMPLES["top1"], seed: int = 0
) -> Difference:
    """Compare two arms on the same seeds and images.

    The per-image difference, averaged over S seeds, takes at most 2 S + 1 values, so that a bootstrap over images is a
    multinomial draw over the counts of those values: the same distribution, without touching an image again.

    Args:
        correct_from: Whether each image was right, bool (S, images).
        correct_to: The same of the other arm, same seeds and images in the same order.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.
    """
    correct_from, correct_to = np.asarray(correct_from, bool), np.asarray(correct_to, bool)
    assert correct_from.ndim == 2
    assert correct_from.shape == correct_to.shape
    seeds, images = correct_from.shape
    difference = correct_to.astype(np.int64) - correct_from
    per_seed = 100 * difference.mean(axis=1)

    values, counts = np.unique(difference.sum(axis=0), return_counts=True)
    draws = np.random.default_rng(seed).multinomial(images, counts / images, size=resamples)
    return Difference(
        delta=float(per_seed.mean()),
        per_seed=tuple(per_seed.tolist()),
        half_width_seeds=_half_width_seeds(per_seed),
        half_width_images=_half_width_images(draws @ values * (100 / (images * seeds))),
        mcnemar_p=tuple(mcnemar_p(a, b) for a, b in zip(correct_from, correct_to, strict=True)),
        images=images,
    )


def map_difference(
    targets: np.ndarray,
    scores_from: Sequence[np.ndarray],
    scores_to: Sequence[np.ndarray],
    *,
    resamples: int = RESAMPLES["map"],
    seed: int = 0,
) -> Difference:
    """Compare two arms by mAP on the same seeds and images.

    A resample counts each image some number of times; both arms and all seeds get the same counts. Where it holds no
    image of a class, that class is left out of its means.

    Args:
        targets: bool (images, M).
        scores_from: One array (images, M) per seed.
        scores_to: The same of the other arm, same seeds and images in the same order.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.
    """
    assert len(scores_from) == len(scores_to) > 0
    images = len(targets)
    arms = (scores_from, scores_to)
    reached = [np.array([mean_average_precision(scores, targets) for scores in arm]) for arm in arms]
    per_seed = reached[1] - reached[0]
    rng = np.random.default_rng(seed)
    deltas = []
    for first in range(0, resamples, _AT_ONCE):
        drawn = rng.integers(0, images, (min(_AT_ONCE, resamples - first), images))
        counts = np.stack([np.bincount(row, minlength=images) for row in drawn], axis=1).astype(np.float32)
        of_classes = []
        for number in np.flatnonzero(targets.any(axis=0)):
            positive = targets[:, number]
            one, other = (
                np.mean([average_precision(scores[:, number], positive, counts) for scores in arm], axis=0)
                for arm in arms
            )
            of_classes.append(other - one)
        deltas.append(np.nanmean(of_classes, axis=0))
    return Difference(
        delta=float(per_seed.mean()),
        per_seed=tuple(per_seed.tolist()),
        half_width_seeds=_half_width_seeds(per_seed),
        half_width_images=_half_width_images(np.concatenate(deltas)),
        mcnemar_p=None,
        images=images,
    )


def _half_width_seeds(per_seed: np.ndarray) -> float | None:
    if len(per_seed) == 1:
        return None
    quantile = t.ppf(1 - (1 - CONFIDENCE) / 2, len(per_seed) - 1)
    return float(quantile * per_seed.std(ddof=1) / np.sqrt(len(per_seed)))


def _half_width_images(deltas: np.ndarray) -> float:
    """Of the percentile interval of resampled differences."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(deltas, [tail, 100 - tail])
    return float(high - low) / 2


def mcnemar_p(correct_from: np.ndarray, correct_to: np.ndarray) -> float:
    """Exact two-sided McNemar test on paired bool (images,); 1.0 where the arms never disagree."""
    gained = int((~correct_from & correct_to).sum())
    lost = int((correct_from & ~correct_to).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_correct(
    records_from: Sequence[pd.DataFrame], records_to: Sequence[pd.DataFrame]
) -> tuple[np.ndarray, np.ndarray]:
    """Join prediction records by key.

    Args:
        records_from: One frame per seed with columns key, label and top5.
        records_to: The other arm's, in the same order of seeds.

    Returns:
        Two bool arrays (S, images) for `top1_difference`.

    Raises:
        ValueError: Some records have other keys or labels than the rest, so that they are not of the same images.
    """
    reference, *tables = _joined(records_from, records_to, "label")
    correct = [np.stack(records["top5"].to_numpy())[:, 0] == reference["label"].to_numpy() for records in tables]
    seeds = len(records_from)
    return np.stack(correct[:seeds]), np.stack(correct[seeds:])


def paired_scores(
    records_from: Sequence[pd.DataFrame], records_to: Sequence[pd.DataFrame]
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Join multi-label prediction records by key.

    Args:
        records_from: One frame per seed with columns key, labels and scores.
        records_to: The other arm's, in the same order of seeds.

    Returns:
        Targets and scores for `map_difference`.

    Raises:
        ValueError: As `paired_correct`.
    """
    reference, *tables = _joined(*([_listed(r) for r in records] for records in (records_from, records_to)), "labels")
    scores = [np.stack(records["scores"].to_numpy()) for records in tables]
    targets = np.zeros(scores[0].shape, bool)
    for image, labels in enumerate(reference["labels"]):
        targets[image, list(labels)] = True
    seeds = len(records_from)
    return targets, scores[:seeds], scores[seeds:]


def _listed(records: pd.DataFrame) -> pd.DataFrame:
    return records.assign(labels=[tuple(labels) for labels in records["labels"]])


def _joined(records_from: Sequence[pd.DataFrame], records_to: Sequence[pd.DataFrame], label: str) -> list[pd.DataFrame]:
    """The first frame, then all of them, each in the order of its keys; keys and column `label` are the same in all."""
    assert len(records_from) == len(records_to) > 0
    tables = [records.set_index("key").sort_index() for records in (*records_from, *records_to)]
    reference = tables[0]
    for records in tables:
        if not records.index.equals(reference.index):
            odd = records.index.symmetric_difference(reference.index)
            example = f", for example '{odd[0]}' is in one only" if len(odd) else ""
            raise ValueError(f"keys differ between runs ({len(reference)} and {len(records)} records{example})")
        different = (records[label] != reference[label]).to_numpy()
        if different.any():
            raise ValueError(f"labels differ between runs, for example of key '{reference.index[different][0]}'")
    return [reference, *tables]
