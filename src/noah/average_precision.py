"""Average precision: how well scores rank the images of a class before all others."""

import numpy as np


def average_precision(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of one class, in percent; images with the same score share one rank, as in scikit-learn.

    Only ranks at which a positive image stands add to it. So images are first summed up between one positive score and
    the next, which makes thousands of weightings at once cheap.

    Args:
        scores: (S,), any scale: only their order counts.
        positive: bool (S,), the images that belong to the class.
        weights: (S, R): how often each image counts, in R weightings; default: once, in one weighting.

    Returns:
        (R,), NaN where no positive image has any weight.
    """
    from scipy.sparse import csr_matrix  # a fifth of a second, which jobs on single labels save

    scores, positive = np.asarray(scores), np.asarray(positive, bool)
    weights = np.ones((len(scores), 1)) if weights is None else weights
    ranks = np.unique(scores[positive])
    if not len(ranks):
        return np.full(weights.shape[1], np.nan)
    segment = len(ranks) - np.searchsorted(ranks, scores, side="right")
    images = np.flatnonzero(segment < len(ranks))  # those below the lowest positive score change nothing

    def summed(chosen: np.ndarray) -> np.ndarray:
        shape, places = (len(ranks), len(scores)), (segment[chosen], chosen)
        return csr_matrix((np.ones(len(chosen), weights.dtype), places), shape) @ weights

    hits = summed(images[positive[images]])
    found, seen = hits.cumsum(axis=0), summed(images).cumsum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(seen > 0, found / seen, 0)
        return 100 * (hits * precision).sum(axis=0) / found[-1]


def class_average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of every class in percent, (M,); NaN for a class without a positive image.

    Args:
        scores: (S, M).
        targets: (S, M), multi-hot.
    """
    return np.array([average_precision(*of_class)[0] for of_class in zip(scores.T, np.asarray(targets).T, strict=True)])


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the classes that have a positive image, in percent; NaN where no class has one."""
    values = class_average_precisions(scores, targets)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
