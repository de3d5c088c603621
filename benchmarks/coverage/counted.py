"""How often the intervals of simulated studies hold the truth."""

import zlib
from dataclasses import asdict

import numpy as np
from cells import Cell
from estimators import LOOKED_AT, before, half_widths, pigeonhole
from scipy.stats import binomtest, norm
from simulated import effects, row, truth

from noah.report import stats
from noah.report.sharing import sharing

BAND = (92.5, 98.5)
"""Percent, of a 95% interval from three seeds on."""


def simulate(cell: Cell, repeats: int) -> dict:
    """Coverage, half-width and share of intervals without 0 of every estimator."""
    rng = np.random.default_rng([1, zlib.crc32(cell.name.encode())])
    true = truth(cell, rng)
    members = shared = None
    found: dict[str, list] = {}
    for _ in range(repeats):
        if cell.sources:
            counts = rng.integers(1, cell.objects, cell.images, endpoint=True)
            members = [rng.integers(0, cell.sources, count) for count in counts]
            shared = sharing([[str(one) for one in own] for own in members])
        u = effects(cell, rng, cell.rows)
        values = [row(cell, rng, u[number], members) for number in range(cell.rows)]
        parts = [stats.measure(*of_row, shared) for of_row in values]
        widths = half_widths(parts)
        if members:  # 0.1 took images as independent
            widths["before"] = np.array([before(stats.measure(*of_row), None) for of_row in values])
        if members and cell.objects > 1:
            widths["pigeonhole"] = np.array([pigeonhole(cell, rng, values[0], members, parts[0])])
        looked_at = slice(1 if cell.noisy != 1 else LOOKED_AT)
        error = np.array([one.delta for one in parts[looked_at]]) - true
        for name, of_rows in widths.items():
            width = of_rows[looked_at]
            found.setdefault(name, []).append(
                ((np.abs(error) <= width).mean(), width.mean(), (np.abs(error + true) > width).mean())
            )
    return {"cell": asdict(cell), "true": true, "estimators": {k: summary(cell, v) for k, v in found.items()}}


def summary(cell: Cell, found: list[tuple]) -> dict:
    covered, width, excludes_0 = np.array(found).T
    if cell.rows == 1 or cell.noisy != 1:
        interval = binomtest(int(covered.sum()), len(covered)).proportion_ci(0.99)
    else:
        error = norm.ppf(0.995) * covered.std(ddof=1) / np.sqrt(len(covered))
        interval = (covered.mean() - error, covered.mean() + error)
    return {
        "coverage": 100 * covered.mean(),
        "coverage_99": [100 * edge for edge in interval],
        "half_width": width.mean(),
        "excludes_0": 100 * excludes_0.mean(),
    }


def passes(found: dict) -> bool:
    """Whether the 99% interval of the coverage reaches into the band."""
    low, high = found["coverage_99"]
    return high >= BAND[0] and low <= BAND[1]
