"""The difference between two arms and how sure we are of it: trainings and images are both samples.

Seeds are a random sample of trainings, test images a random sample of images, and both arms see the same images: the
problem of many readers and many cases (Obuchowski and Rockette 1995, Hillis 2014). The interval, its p and all that
follows from them are one Student's t with a variance of three parts and Satterthwaite's degrees of freedom; which
estimator that is was chosen by simulation (benchmarks/coverage, docs/statistics.md), not by taste.

A score is the mean over images of values: of 0 or 100 for top-1, of pseudo-values for mAP
(noah.report.pseudo_values). Everything here is a function of arrays and knows neither files nor studies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import binomtest

from noah.report.sharing import Sharing

CONFIDENCE = 0.95
SEEDS_FOR_A_VERDICT = 3
"""With two, intervals are too short where arms spread unequally (docs/statistics.md)."""
SOURCES_FOR_AN_INTERVAL = 3
"""Effective number of independent test images below which nothing is known of other images."""
INDEPENDENCE = 9
"""How many seeds' worth of belief the prior has that arms of one seed are no more alike than others: their covariance,
which few seeds cannot measure, is shrunk by (S - 1) / (S - 1 + INDEPENDENCE). Nearly independent is what they are
(arXiv 2304.01910)."""


@dataclass(frozen=True)
class Parts:
    """What two arms left behind, in percentage points: all that an interval is made of."""

    scores_from: tuple[float, ...]
    """One per finished seed."""
    scores_to: tuple[float, ...]
    covariance: float
    """Of the two arms' scores over the seeds that both finished."""
    shared_seeds: int
    image_variance: float
    """Of Δ over samples of images (of clusters, where images share a source)."""
    residual_variance: float
    """What the seeds' and the images' variance both hold: the noise of single predictions."""
    images: int
    clusters: float
    """The effective number of independent images: 1 / sum of squared shares."""

    @property
    def delta(self) -> float:
        return float(np.mean(self.scores_to) - np.mean(self.scores_from))

    @property
    def seeds(self) -> int:
        """Of the arm that has fewer."""
        return min(len(self.scores_from), len(self.scores_to))


@dataclass(frozen=True)
class Difference:
    """Δ of two arms with its standard error, in percentage points."""

    delta: float
    se: float
    """NaN with fewer than two seeds, or with images of one source only, for nothing says what others would be like."""
    df: float
    seed_variance: float
    """Of Δ, as the other two."""
    image_variance: float
    residual_variance: float

    def half_width(self, confidence: float = CONFIDENCE) -> float:
        return float(stdtrit(self.df, (1 + confidence) / 2) * self.se)

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        width = self.half_width(confidence)
        return self.delta - width, self.delta + width

    @property
    def p(self) -> float:
        """Two-sided: below 1 - CONFIDENCE exactly where the interval excludes 0."""
        if np.isnan(self.se):
            return float("nan")
        if self.se == 0:
            return 1.0 if self.delta == 0 else 0.0
        return float(2 * stdtr(self.df, -abs(self.delta) / self.se))


def measure(
    values_from: np.ndarray,
    values_to: np.ndarray,
    shared: Sharing | None = None,
    seeds: tuple[Sequence[int], Sequence[int]] | None = None,
) -> Parts:
    """The parts of a comparison.

    Args:
        values_from: (S, images), percent: their mean over images is the score of a seed.
        values_to: The other arm's, same images in the same order; it may have other seeds.
        shared: Which images share a source; default: none do.
        seeds: Numbers of the rows' seeds; default: the same in both arms.
    """
    arms = [np.asarray(values, np.float64) for values in (values_from, values_to)]
    assert arms[0].shape[1] == arms[1].shape[1]
    one, other = seeds or (range(len(arms[0])), range(len(arms[1])))
    scores = [values.mean(axis=1) for values in arms]
    of_image = [values.mean(axis=0) for values in arms]
    residual = sum(
        sum(_mean_variance(row - mean, shared, least=0.0) for row in values) / (len(values) * (len(values) - 1))
        for values, mean in zip(arms, of_image, strict=True)
        if len(values) > 1
    )
    common = [seed for seed in one if seed in other]
    pairs = [[scores[arm][list(order).index(seed)] for seed in common] for arm, order in enumerate((one, other))]
    images = arms[0].shape[1]
    return Parts(
        tuple(scores[0].tolist()),
        tuple(scores[1].tolist()),
        float(np.cov(*pairs)[0, 1]) if len(common) > 1 else 0.0,
        len(common),
        float(_mean_variance(of_image[1] - of_image[0], shared)),
        float(residual),
        images,
        images if shared is None else shared.effective,
    )


def _mean_variance(values: np.ndarray, shared: Sharing | None, least: float = 1.0) -> float:
    """Of the mean of (images,): images that share a source count together (Liang and Zeger 1986; images with several
    sources: Aronow, Samii and Assenova 2015). At least `least` times what it would be if all were independent."""
    images = len(values)
    if images < 2:
        return 0.0
    centred = values - values.mean()
    independent = float(centred @ centred) / images / (images - 1)
    if shared is None:
        return independent
    together = shared.together(centred) / images**2 * shared.effective / max(shared.effective - 1, 1)
    return max(together, least * independent)


def conclude(parts: Parts, spreads: Sequence[tuple[float, float]] | None = None) -> Difference:
    """Δ with its standard error and degrees of freedom.

    Args:
        parts: Of the two arms.
        spreads: Variance over seeds and its degrees of freedom, of either arm; default: as its scores have them.

    variance = seeds + images - what both hold, at least as much as each alone; df by Satterthwaite (1946), as Hillis
    (2014) has them for readers and cases.
    """
    scores = (parts.scores_from, parts.scores_to)
    if parts.seeds < 2 or parts.clusters < SOURCES_FOR_AN_INTERVAL:
        return Difference(parts.delta, np.nan, np.nan, np.nan, parts.image_variance, parts.residual_variance)
    spreads = spreads or [(float(np.var(of_arm, ddof=1)), len(of_arm) - 1.0) for of_arm in scores]
    means = [variance / len(of_arm) for (variance, _), of_arm in zip(spreads, scores, strict=True)]
    uncertain = [mean / np.sqrt(df) for mean, (_, df) in zip(means, spreads, strict=True)]
    weight, covariance = _covariance(parts, means)
    seeds = sum(means) - 2 * weight * covariance
    v = max(seeds + parts.image_variance - parts.residual_variance, seeds, parts.image_variance)
    spent = sum(one**2 for one in uncertain) + 2 * weight**2 * np.prod(uncertain)
    spent += parts.image_variance**2 / max(parts.clusters - 1, 1)
    df = v**2 / spent if spent else float("inf")
    return Difference(
        parts.delta, float(np.sqrt(v)), float(df), float(seeds), parts.image_variance, parts.residual_variance
    )


def _covariance(parts: Parts, means: list[float]) -> tuple[float, float]:
    """Weight, and covariance of the two means: their correlation over common seeds times their standard errors."""
    if parts.shared_seeds < 2 or 0 in means:
        return 0.0, 0.0
    weight = (parts.shared_seeds - 1) / (parts.shared_seeds - 1 + INDEPENDENCE)
    own = [np.var(of_arm, ddof=1) / len(of_arm) for of_arm in (parts.scores_from, parts.scores_to)]
    scale = np.sqrt(np.prod(means) / np.prod(own)) if np.prod(own) else 0.0
    together = parts.covariance * parts.shared_seeds / (len(parts.scores_from) * len(parts.scores_to))
    return weight, float(together * scale)


def mcnemar_p(correct_from: np.ndarray, correct_to: np.ndarray) -> float:
    """Exact two-sided McNemar test on paired bool (images,) of one seed; 1.0 where the arms never disagree.

    It takes both trainings as given, and says nothing of others.
    """
    gained = int((~correct_from & correct_to).sum())
    lost = int((correct_from & ~correct_to).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
