"""Whether a study came out as an earlier copy of its table says: on another processor bits differ, not verdicts."""

from pathlib import Path

import numpy as np
import pandas as pd

from noah.config import Study
from noah.files import read_csv
from noah.report.comparison_table import read_comparison

_NAME = ["dataset", "recipe", "backbone", "from", "to"]
ROUNDING = 1e-9
"""Points by which the same records may differ: two versions may add them up in another order."""
_NUMBERS = ["delta", "low", "high"]
_TEXTS = [*_NAME, "kind"]


def agreement(study: Study, copy: Path) -> list[str]:
    """One line per pair: this Δ and the copy's, and whether each lies inside the other's interval; first a summary.

    Args:
        study: A compared study.
        copy: A comparison.csv, or a folder of dated copies, of which the newest of this study is taken.

    Raises:
        ValueError: The copy is no such table.
    """
    path = _newest(study, copy) if copy.is_dir() else copy
    if path is None:
        return [f"{copy}: no earlier table of study '{study.slug}' to compare with"]
    earlier = read_csv(path, "the CSV of `noah table` since version 0.2", texts=_TEXTS, numbers=_NUMBERS)
    earlier = earlier[earlier["kind"] == "pair"]
    here = read_comparison(study)
    both = here[here["kind"] == "pair"].merge(
        earlier.drop(columns="kind"), on=_NAME, suffixes=("", "_there"), how="left"
    )
    both = both.rename(columns={"from": "source"})
    lines, agreeing = [], 0
    for pair in both.itertuples():
        name = f"{pair.backbone} {pair.source} → {pair.to}"
        values = (pair.delta, pair.low, pair.high, pair.delta_there, pair.low_there, pair.high_there)
        if any(map(pd.isna, values)):
            lines.append(f"  {name}: cannot be compared, for one of the two has no interval")
            continue
        same = np.allclose(values[:3], values[3:], rtol=0, atol=ROUNDING)
        inside = pair.low_there <= pair.delta <= pair.high_there and pair.low <= pair.delta_there <= pair.high
        agreeing += inside
        said = "the same" if same else "each inside the other's interval" if inside else "OUTSIDE the other's interval"
        lines.append(
            f"  {name}: {pair.delta:+.2f} [{pair.low:+.2f}, {pair.high:+.2f}] here, "
            f"{pair.delta_there:+.2f} [{pair.low_there:+.2f}, {pair.high_there:+.2f}] there: {said}"
        )
    return [f"Beside {path}: {agreeing} of {len(both)} differences agree.", *lines]


def _newest(study: Study, folder: Path) -> Path | None:
    """Dated copies sort by their names; those of version 0.1 have no intervals to compare with."""
    pattern = f"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-{study.slug}.csv"
    for path in sorted(folder.glob(pattern), reverse=True):
        with open(path, encoding="utf-8", errors="replace") as file:
            if {*_TEXTS, *_NUMBERS} <= set(file.readline().rstrip("\n").split(",")):
                return path
    return None
