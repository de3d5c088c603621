"""Test images that share a source (a digit, a patient, a video) count together."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

MOST_PAIRS = 200_000_000
"""3 GB in memory."""


class Sharing:
    """Which images share a source.

    Attributes:
        effective: How many independent images they are as good as: images² / number of ordered pairs that share one,
            an image with itself among them.
    """

    def __init__(self, clusters: Sequence[Sequence[str]]):
        """`clusters` has for each image the names of its sources, at least one."""
        numbers: dict[str, int] = {}
        columns = [numbers.setdefault(name, len(numbers)) for names in clusters for name in names]
        counts = np.array([len(names) for names in clusters])
        rows = np.repeat(np.arange(len(clusters)), counts)
        members = csr_matrix((np.ones(len(rows)), (rows, columns)), (len(clusters), len(numbers)))
        if counts.max() == 1:
            # Sums over sources: the pairs of a few long videos would not fit into memory.
            self._of_source, self._pairs = members.T.tocsr(), None
            number = (np.bincount(columns) ** 2).sum()
        else:
            pairs = int((np.asarray(members.sum(axis=0)) ** 2).sum())
            if pairs > MOST_PAIRS:
                raise ValueError(
                    f"clusters: {pairs:,} pairs of images share a source, expected at most {MOST_PAIRS:,} where images "
                    "have several sources"
                )
            self._of_source, self._pairs = None, ((members @ members.T) > 0).astype(np.float64)
            number = self._pairs.sum()
        self.effective = float(len(clusters) ** 2 / number)

    def together(self, values: np.ndarray) -> float:
        """Sum of values[i] * values[j] over all pairs of images that share a source, (images,) -> number."""
        if self._pairs is None:
            sums = self._of_source @ values
            return float(sums @ sums)
        return float(values @ (self._pairs @ values))


def sharing(clusters: Sequence[Sequence[str]] | None) -> Sharing | None:
    """None where the images name no sources."""
    return None if clusters is None else Sharing(clusters)
