"""Half-widths of 95% intervals by every estimator, from the same parts."""

from dataclasses import replace

import numpy as np
from cells import Cell
from moderation import Prior, fit_prior
from scipy.special import stdtrit

from noah.report import stats

CHOSEN = "shrunk covariance"
LOOKED_AT = 6
"""Rows of a simulated study whose intervals are computed; all of them shape the prior."""


def half_widths(parts: list[stats.Parts]) -> dict[str, np.ndarray]:
    """95% half-widths of the first rows, by estimator; "…, moderated" learns the spread over seeds from all rows."""
    arms = tuple(fit_prior([getattr(one, name) for one in parts]) for name in ("scores_from", "scores_to"))
    paired = fit_prior([np.subtract(one.scores_to, one.scores_from) for one in parts])
    parts = parts[:LOOKED_AT]
    rules = {"before": before, "Welch beside images": welch_beside_images, "MRMC, Hillis": hillis}
    made = {}
    kinds = {"": ((None, None), None), ", moderated": (arms, paired)}
    for more, (own, pairs) in kinds.items():
        if more and own == (None, None):
            continue
        for name, rule in rules.items():
            made[name + more] = [rule(one, pairs if name != "Welch beside images" else own) for one in parts]
        made["Satterthwaite" + more] = [satterthwaite(one, own) for one in parts]
        made[CHOSEN + more] = [chosen(one, own) for one in parts]
    return {name: np.array(widths) for name, widths in made.items()}


def spread(scores, prior: Prior | None) -> tuple[float, float]:
    variance, df = np.var(scores, ddof=1), len(scores) - 1.0
    return prior.moderate(variance, df) if prior else (variance, df)


def quantile(df: float) -> float:
    return stdtrit(df, 0.975)


def before(parts: stats.Parts, prior: Prior | None) -> float:
    """Of noah 0.1: Student's t over paired seeds, beside the images' normal interval (a bootstrap, there)."""
    variance, df = spread(np.subtract(parts.scores_to, parts.scores_from), prior)
    seeds = quantile(df) * np.sqrt(variance / len(parts.scores_to))
    return np.hypot(seeds, 1.96 * np.sqrt(parts.image_variance))


def welch_beside_images(parts: stats.Parts, priors: tuple) -> float:
    """Half-widths of seeds and images, each on its own, as the sides of a right angle."""
    sides = [(v / len(parts.scores_to), df) for v, df in map(spread, (parts.scores_from, parts.scores_to), priors)]
    seeds = sum(v for v, _ in sides)
    df = seeds**2 / sum(v**2 / df for v, df in sides) if seeds else 1.0
    return np.hypot(quantile(df) * np.sqrt(seeds), 1.96 * np.sqrt(parts.image_variance))


def hillis(parts: stats.Parts, prior: Prior | None) -> float:
    """Obuchowski and Rockette's variance with Hillis' degrees of freedom: seeds are readers, paired."""
    variance, df = spread(np.subtract(parts.scores_to, parts.scores_from), prior)
    seeds = variance / len(parts.scores_to)
    total = seeds + max(parts.image_variance - parts.residual_variance, 0)
    return quantile(df * (total / seeds) ** 2) * np.sqrt(total) if seeds else 1.96 * np.sqrt(total)


def chosen(parts: stats.Parts, priors: tuple) -> float:
    """What noah prints, where nothing is moderated."""
    spreads = [spread(*arm) for arm in zip((parts.scores_from, parts.scores_to), priors, strict=True)]
    return stats.conclude(parts, spreads).half_width()


def satterthwaite(parts: stats.Parts, priors: tuple) -> float:
    """The chosen one without the covariance of seeds."""
    return chosen(replace(parts, shared_seeds=0), priors)


def pigeonhole(cell: Cell, rng, values: list, members: list, parts: stats.Parts) -> float:
    """The chosen one with Owen's (2007) bootstrap of objects for its images: a scene counts by the product."""
    difference = values[1].mean(0) - values[0].mean(0)
    weights = rng.poisson(1, (100, cell.sources))
    scenes = np.stack([weights[:, own].prod(1) for own in members], 1)
    resampled = (scenes @ difference) / scenes.sum(1)
    return stats.conclude(replace(parts, image_variance=float(resampled.var(ddof=1)))).half_width()
