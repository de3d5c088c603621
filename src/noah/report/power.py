"""What so many seeds will find, from the spread over seeds and images: formulas for runs yet to come."""

import math
from dataclasses import dataclass

from scipy.special import stdtrit

from noah.report.stats import CONFIDENCE, SEEDS_FOR_A_VERDICT

POWER = 0.8
"""Share of studies that are to find a difference."""
MOST_SEEDS = 100
"""Beyond which a number of seeds is no advice."""


@dataclass(frozen=True)
class Spread:
    """What the variance of Δ is made of, in points squared."""

    seed: float
    """Of one arm's score over seeds, the mean of both arms."""
    images: float
    """Of Δ over samples of test images, if there were infinitely many seeds."""
    residual: float
    """The noise of single predictions: what one seed of one arm adds to the variance over images."""
    clusters: float
    """The number of independent test images."""


def expected_error(spread: Spread, seeds: int) -> tuple[float, float]:
    """Standard error of Δ, in points, and its degrees of freedom, with so many seeds of either arm (at least 2).

    The degrees are those that a study will find: it takes them from spreads that are samples themselves, and finds
    fewer on average than the true spreads have, 3 instead of 4 with three seeds. With 4, only 70% of studies would find
    what is promised to 80%.
    """
    of_arm, images = spread.seed / seeds, spread.images + 2 * spread.residual / seeds
    variance = 2 * of_arm + spread.images
    # Expectations of squares: a sample variance's is (1 + 2 / (S - 1)) times the square of what it estimates.
    squared = variance**2 + 4 * of_arm**2 / (seeds - 1)
    uncertain = 2 * of_arm**2 * (1 + 2 / (seeds - 1)) / (seeds - 1) + images**2 / max(spread.clusters - 1, 1)
    return math.sqrt(variance), squared / uncertain if uncertain else math.inf


def finds(difference: float, spread: Spread, seeds: int) -> bool:
    """Whether 80% of studies find that true difference, in points: whether their 95% interval excludes 0."""
    se, df = expected_error(spread, seeds)
    return bool(difference > (stdtrit(df, (1 + CONFIDENCE) / 2) + stdtrit(df, POWER)) * se)


def shows_equal(difference: float, margin: float, spread: Spread, seeds: int) -> bool:
    """Whether 80% of studies find the 90% interval of that true difference within the margin, all in points.

    Near 0 either end may be the one that fails, so that each gets half of the 20%.
    """
    se, df = expected_error(spread, seeds)
    return bool(margin - difference > (stdtrit(df, CONFIDENCE) + stdtrit(df, (1 + POWER) / 2)) * se)


def resolvable(spread: Spread, seeds: int) -> float:
    """The true difference, in points, that 80% of studies find (two-sided 5%); NaN with too few seeds for a verdict."""
    if seeds < SEEDS_FOR_A_VERDICT:
        return math.nan
    se, df = expected_error(spread, seeds)
    return float((stdtrit(df, (1 + CONFIDENCE) / 2) + stdtrit(df, POWER)) * se)


def floor(spread: Spread) -> float:
    """Half the 90% interval that infinitely many seeds would leave, in points: no smaller margin can be met."""
    return float(stdtrit(max(spread.clusters - 1, 1), CONFIDENCE) * math.sqrt(spread.images))
