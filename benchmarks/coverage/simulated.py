"""Scores of a simulated study, whose truth is known.

An image has a difficulty that both arms share, one of each arm's own, and noise; a training has an effect. A prediction
is right where their sum with the arm's skill is above 0 (multi-label: the sum is the score).
"""

from dataclasses import replace

import numpy as np
from cells import NOISE, Cell
from scipy.special import ndtr

from noah.report.pseudo_values import map_values

CLASSES, PREVALENCE = 8, 0.2


def effects(cell: Cell, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Of trainings, (rows, 2, seeds), in units of difficulty."""
    shape = (rows, cell.seeds)
    own = {
        "normal": rng.standard_normal,
        "collapse": rng.standard_normal,
        "t3": lambda size: rng.standard_t(3, size) / np.sqrt(3),
    }[cell.tail]
    common = own(shape)
    drawn = np.stack(
        [np.sqrt(cell.seeds_alike) * common + np.sqrt(1 - cell.seeds_alike) * own(shape) for _ in (0, 1)], 1
    )
    of_row = np.exp(cell.rows_differ * rng.standard_normal((rows, 1, 1)))
    of_row[0] *= cell.noisy
    drawn *= np.array(cell.spread)[:, None] * cell.slope * of_row
    if cell.tail == "collapse":
        drawn -= rng.random(drawn.shape) < 0.15
    return drawn


def difficulty(cell: Cell, rng: np.random.Generator, members: list[np.ndarray] | None, size: tuple) -> np.ndarray:
    """(images, ...) with variance 1; half of it belongs to the image's sources where it has any."""
    if members is None:
        return rng.standard_normal(size)
    of_source = rng.standard_normal((cell.sources, *size[1:]))
    common = np.stack([of_source[own].sum(0) / np.sqrt(len(own)) for own in members])
    return np.sqrt(0.5) * common + np.sqrt(0.5) * rng.standard_normal(size)


def row(cell: Cell, rng: np.random.Generator, u: np.ndarray, members: list | None) -> list[np.ndarray]:
    """Values of two arms, each (seeds, images)."""
    size = (cell.images,) if cell.score == "top1" else (cell.images, CLASSES)
    common = difficulty(cell, rng, members, size)
    own = [difficulty(cell, rng, members, size) for _ in (0, 1)]
    hard = [np.sqrt(cell.images_alike) * common + np.sqrt(1 - cell.images_alike) * one for one in own]
    if cell.score == "top1":
        return [
            100.0 * (rng.random((cell.seeds, cell.images)) < ndtr((cell.skill[a] + hard[a] + u[a][:, None]) / NOISE))
            for a in (0, 1)
        ]
    positive = rng.random(size) < PREVALENCE
    return [
        np.stack(
            [
                map_values((cell.skill[a] + effect) * positive + hard[a] + NOISE * rng.standard_normal(size), positive)
                for effect in u[a]
            ]
        )
        for a in (0, 1)
    ]


def truth(cell: Cell, rng: np.random.Generator) -> float:
    """The difference over all trainings and images; arms that are alike differ by nothing."""
    if cell.skill[0] == cell.skill[1] and cell.spread[0] == cell.spread[1]:
        return 0.0
    assert cell.score == "top1"
    u = effects(replace(cell, seeds=200_000 // cell.rows), rng, cell.rows)
    reached = [ndtr((skill + u[:, a]) / np.sqrt(1 + NOISE**2)).mean() for a, skill in enumerate(cell.skill)]
    return 100 * (reached[1] - reached[0])
