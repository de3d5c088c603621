"""How an arm spreads over seeds, in the light of how it does on other backbones: moderated variances (Smyth 2004).

A candidate that tables do not use: a backbone that spreads more than the others is then not covered
(docs/statistics.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, polygamma


@dataclass(frozen=True)
class Prior:
    """What the spreads of an arm over seeds on all backbones of a study say of any one of them (Smyth 2004)."""

    variance: float
    df: float
    """How many degrees of freedom it is worth; infinite where it spreads alike everywhere."""
    total_df: float
    """Of all backbones together: no single one can be known better."""

    def moderate(self, variance: float, df: float) -> tuple[float, float]:
        """Variance and degrees of freedom on one backbone in the light of the others."""
        if np.isinf(self.df):
            return self.variance, self.total_df
        moderated = (self.df * self.variance + df * variance) / (self.df + df)
        return moderated, min(self.df + df, self.total_df)


def fit_prior(samples: Sequence[Sequence[float]], least: int = 3) -> Prior | None:
    """The prior of an arm's spread over seeds, from its scores on all backbones (Smyth 2004, section 6.2).

    Args:
        samples: For each backbone the arm's scores, one per seed; those of one seed say nothing.
        least: How many backbones it takes.

    Returns:
        None with fewer than `least` backbones.
    """
    samples = [sample for sample in samples if len(sample) > 1]
    variances = np.array([np.var(sample, ddof=1) for sample in samples])
    df = np.array([len(sample) - 1.0 for sample in samples])
    if len(samples) < least or not (variances > 0).any():
        return None
    # As in limma: an arm without any spread is a matter of rounding.
    variances = np.maximum(variances, 1e-5 * np.median(variances[variances > 0]))
    logs = np.log(variances) - digamma(df / 2) + np.log(df / 2)
    excess = logs.var(ddof=1) - polygamma(1, df / 2).mean()
    if excess <= 0:
        return Prior(float(np.exp(logs.mean())), float("inf"), float(df.sum()))
    half = _inverse_trigamma(excess)
    return Prior(float(np.exp(logs.mean() + digamma(half) - np.log(half))), 2 * half, float(df.sum()))


def _inverse_trigamma(value: float) -> float:
    """Newton's method of Smyth 2004, appendix."""
    guess = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, guess))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, guess))
        guess += step
        if -step / guess < 1e-8:
            break
    return guess
