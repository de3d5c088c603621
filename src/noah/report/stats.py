"""The difference between two arms and how sure we are of it: seeds and images both count."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import pandas as pd
from scipy.stats import binomtest, t

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """Top-1 of arm `to` minus arm `from`, in percentage points."""

    delta: float
    """Mean over seeds."""
    per_seed: tuple[float, ...]
    half_width_seeds: float | None
    """Student's t over the seeds' differences; None with one seed."""
    half_width_images: float
    """Half the 95% percentile interval over paired resamples of the images."""
    mcnemar_p: tuple[float, ...]
    """Exact and two-sided, one per seed."""
    images: int

    @property
    def half_width(self) -> float:
        """sqrt(seeds² + images²); with one seed, seeds are not covered."""
        return float(np.hypot(self.half_width_seeds or 0.0, self.half_width_images))

    @property
    def seeds_covered(self) -> bool:
        return self.half_width_seeds is not None

    @property
    def mcnemar_p_median(self) -> float:
        return median(self.mcnemar_p)


def top1_difference(
    correct_from: np.ndarray, correct_to: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
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
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(draws @ values * (100 / (images * seeds)), [tail, 100 - tail])

    half_width_seeds = None
    if seeds > 1:
        quantile = t.ppf(1 - (1 - CONFIDENCE) / 2, seeds - 1)
        half_width_seeds = float(quantile * per_seed.std(ddof=1) / np.sqrt(seeds))
    return Difference(
        delta=float(per_seed.mean()),
        per_seed=tuple(per_seed.tolist()),
        half_width_seeds=half_width_seeds,
        half_width_images=float(high - low) / 2,
        mcnemar_p=tuple(mcnemar_p(a, b) for a, b in zip(correct_from, correct_to, strict=True)),
        images=images,
    )


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
    assert len(records_from) == len(records_to) > 0
    reference = records_from[0].set_index("key")["label"].sort_index()
    correct = []
    for records in (*records_from, *records_to):
        records = records.set_index("key").sort_index()
        if not records.index.equals(reference.index):
            odd = records.index.symmetric_difference(reference.index)
            example = f", for example '{odd[0]}' is in one only" if len(odd) else ""
            raise ValueError(f"keys differ between runs ({len(reference)} and {len(records)} records{example})")
        if (records["label"] != reference).any():
            key = reference.index[(records["label"] != reference).to_numpy()][0]
            raise ValueError(f"labels differ between runs, for example of key '{key}'")
        correct.append(np.stack(records["top5"].to_numpy())[:, 0] == reference.to_numpy())
    seeds = len(records_from)
    return np.stack(correct[:seeds]), np.stack(correct[seeds:])
