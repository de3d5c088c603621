"""From differences to verdicts: ahead, behind, equal or undecided, over one backbone and over all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from noah.report.power import MOST_SEEDS, Spread, finds, shows_equal
from noah.report.stats import CONFIDENCE, SEEDS_FOR_A_VERDICT, Difference, Parts

VERDICTS = ("ahead", "behind", "equal", "undecided")


class Overall(NamedTuple):
    """Mean Δ over backbones, in percentage points."""

    delta: float
    low: float
    high: float
    p: float
    tau: float
    """Standard deviation of the true differences between backbones."""


def verdict(difference: Difference, seeds: int, margin: float | None) -> str | None:
    """One of `VERDICTS`; None without an interval, and with fewer than three seeds, of which none covers what it says.

    Args:
        difference: Of the two arms.
        seeds: Of the arm that has fewer.
        margin: The largest difference that is as good as none, in points; without one nothing is equal.
    """
    if seeds < SEEDS_FOR_A_VERDICT or np.isnan(difference.se):
        return None
    if difference.p < 1 - CONFIDENCE:
        return "ahead" if difference.delta > 0 else "behind"
    # Two one-sided tests at 5% (Schuirmann 1987): the 90% interval.
    if margin is not None and max(map(abs, difference.interval(2 * CONFIDENCE - 1))) <= margin:
        return "equal"
    return "undecided"


def seeds_needed(parts: Parts, margin: float | None) -> int | None:
    """Seeds of each arm with which a true difference as large as this one would be decided in 80% of studies.

    Decided: its 95% interval excludes 0, or its 90% interval lies within the margin. `MOST_SEEDS` + 1 stands for more
    than are worth asking for; None: no number is enough, for the test images alone leave too much open.
    """
    spread, delta = spread_of(parts), abs(parts.delta)
    for seeds in range(max(parts.seeds + 1, SEEDS_FOR_A_VERDICT), MOST_SEEDS + 1):
        if finds(delta, spread, seeds) or (margin and shows_equal(delta, margin, spread, seeds)):
            return seeds
    endless = 10**9
    return MOST_SEEDS + 1 if finds(delta, spread, endless) else None


def spread_of(parts: Parts) -> Spread:
    """How both arms spread, for what further seeds will find; each needs two seeds."""
    scores = (parts.scores_from, parts.scores_to)
    residual = parts.residual_variance / sum(1 / len(of_arm) for of_arm in scores)
    images = max(parts.image_variance - parts.residual_variance, 0)
    seeds = float(np.mean([np.var(of_arm, ddof=1) for of_arm in scores]))
    return Spread(seeds, images, residual, parts.clusters)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's (1979) adjusted p of a family; NaN stays NaN and belongs to no family."""
    p = np.asarray(p, float)
    adjusted = np.full(len(p), np.nan)
    known = ~np.isnan(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def overall(differences: Sequence[Difference]) -> Overall | None:
    """Mean Δ over backbones, which are a random sample too: Paule and Mandel's variance between them, Hartung and
    Knapp's interval (t with one degree of freedom less than backbones). None with fewer than two.
    """
    known = [one for one in differences if one.se > 0]
    if len(known) < 2:
        return None
    effects, variances = (np.array([getattr(one, name) for one in known]) for name in ("delta", "se"))
    found = combine_effects(effects, variances**2, method_re="iterated", use_t=True)
    # Backbones that agree by chance would leave no doubt: never less than the weights' own error (Röver et al. 2015).
    se = float(found.sd_eff_w_re * np.sqrt(max(found.scale_hksj_re, 1.0)))
    mean = Difference(float(found.mean_effect_re), se, len(known) - 1.0, np.nan, np.nan, np.nan)
    return Overall(mean.delta, *mean.interval(), mean.p, float(np.sqrt(found.tau2)))
