"""The kinds of studies whose intervals are counted."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

NOISE = 0.6


@dataclass(frozen=True)
class Cell:
    """One kind of study."""

    name: str
    seeds: int
    images: int = 2000
    rows: int = 1
    spread: tuple[float, float] = (1.0, 1.0)
    """Points of top-1 (mAP: hundredths of a standard deviation of the scores), of either arm over seeds."""
    rows_differ: float = 0.0
    """Standard deviation of the logarithm of a row's spread."""
    noisy: float = 1.0
    """How many times as much as the others the first row spreads; if not once, it alone is looked at."""
    tail: str = "normal"
    """Of the seeds' effects: normal, t3, or collapse (15% of the runs lose a standard deviation of difficulty)."""
    seeds_alike: float = 0.0
    """Correlation of the arms' effects of one seed."""
    images_alike: float = 0.8
    """Correlation of the arms' difficulties of one image."""
    skill: tuple[float, float] = (1.4, 1.4)
    sources: int | None = None
    """Images show that many objects (digits, patients), which carry half of the difficulty; None: all their own."""
    objects: int = 1
    """Most objects in an image; from one on."""
    score: str = "top1"

    @property
    def slope(self) -> float:
        """Units of difficulty for a point of spread."""
        if self.score == "map":
            return 0.01
        scale = np.sqrt(1 + NOISE**2)
        return scale / (100 * norm.pdf(self.skill[0] / scale))


def cells() -> list[Cell]:
    """From two seeds to ten; moderation over 3, 8 and 26 rows; images in clusters; mAP."""
    kinds = {
        "1 point": Cell("", 0),
        "no spread": Cell("", 0, spread=(0.0, 0.0)),
        "3 points": Cell("", 0, spread=(3.0, 3.0)),
        "300 images": Cell("", 0, images=300),
        "10,000 images": Cell("", 0, images=10_000),
        "3 and 0.5 points": Cell("", 0, spread=(3.0, 0.5)),
        "heavy tails": Cell("", 0, spread=(1.5, 1.5), tail="t3"),
        "runs collapse": Cell("", 0, tail="collapse"),
        "3 points, seeds alike (.5)": Cell("", 0, spread=(3.0, 3.0), seeds_alike=0.5),
        "images not alike": Cell("", 0, images_alike=0.0),
        "images alike (.5)": Cell("", 0, images_alike=0.5),
        "one arm 2 points better": Cell("", 0, skill=(1.4, 1.57)),
    }
    studies = {
        "alike": Cell("", 0),
        "0.3 to 3 points": Cell("", 0, rows_differ=0.7),
        "arms 2 and 0.5 points": Cell("", 0, spread=(2.0, 0.5)),
        "heavy tails": Cell("", 0, spread=(1.5, 1.5), tail="t3"),
        "runs collapse": Cell("", 0, tail="collapse"),
    }
    clustered = {
        "300 digits": Cell("", 0, sources=300),
        "1,300 digits": Cell("", 0, images=4000, sources=1300),
        "scenes of 1 to 4 of 300 digits": Cell("", 0, sources=300, objects=4),
        "mAP": Cell("", 0, images=1000, score="map", spread=(20.0, 20.0)),
        "mAP, scenes of 1 to 4 of 300 digits": Cell("", 0, sources=300, objects=4, score="map", spread=(10.0, 10.0)),
    }
    made = []
    for seeds in (2, 3, 5, 10):
        made += [replace(cell, name=f"{seeds} seeds, {kind}", seeds=seeds) for kind, cell in kinds.items()]
        for rows, images in ((3, 1000), (8, 1000), (26, 500)):
            made += [
                replace(cell, name=f"{seeds} seeds, {rows} rows, {kind}", seeds=seeds, rows=rows, images=images)
                for kind, cell in studies.items()
            ]
        for rows, images in ((8, 1000), (26, 500)):
            name = f"{seeds} seeds, {rows} rows, the one of 4 times the spread"
            made.append(Cell(name, seeds, images, rows, spread=(0.5, 0.5), noisy=4.0))
    for seeds in (3, 5):
        made += [replace(cell, name=f"{seeds} seeds, {kind}", seeds=seeds) for kind, cell in clustered.items()]
    return made
