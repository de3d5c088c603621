"""mAP as a mean over images: pseudo-values of the infinitesimal jackknife (Jaeckel 1972; Efron and Tibshirani 1993).

A value for each image, with mAP as their mean, whose spread over images is that of mAP: so one estimator serves both
scores, without a bootstrap.
"""

import numpy as np


def map_values(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Pseudo-values of mAP in percent, (images,): mAP + images * d mAP / d weight of the image.

    Args:
        scores: (images, M), any scale per class.
        targets: bool (images, M); a class without a positive image is left out, as in mAP.
    """
    targets = np.asarray(targets, bool)
    known = np.flatnonzero(targets.any(axis=0))
    values = [_ap_values(scores[:, number], targets[:, number]) for number in known]
    return np.mean(values, axis=0)


def _ap_values(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Of the average precision of one class that has a positive image; equal scores share one rank.

    AP = 1/P sum_k h_k F_k / N_k over the ranks k at which positives stand: h_k positives at the rank, F_k positives and
    N_k images down to it. Another weight of an image at rank j changes F_k (if positive) and N_k for all k >= j.
    """
    ranks = np.unique(scores[positive])
    place = len(ranks) - np.searchsorted(ranks, scores, side="right")  # ranks from the best; len(ranks): below them all
    hits = np.bincount(place[positive], minlength=len(ranks)).astype(float)
    found = hits.cumsum()
    seen = np.bincount(place, minlength=len(ranks) + 1)[:-1].cumsum().astype(float)
    positives = found[-1]
    precision = found / seen
    ap = (hits * precision).sum() / positives

    def from_here_on(terms: np.ndarray) -> np.ndarray:
        return np.append(terms[::-1].cumsum()[::-1], 0.0)[place]

    gained = from_here_on(hits / seen) + np.append(precision, 0.0)[place] - ap
    slope = (positive * gained - from_here_on(hits * found / seen**2)) / positives
    return 100 * (ap + len(scores) * slope)
