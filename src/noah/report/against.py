"""Whether a study came out as an earlier copy of its table says: on another processor bits differ, not verdicts."""

from pathlib import Path

import pandas as pd

from noah.config import Study
from noah.report.comparison_table import read_comparison

_NAME = ["dataset", "recipe", "backbone", "from", "to"]
_NUMBERS = ["delta", "low", "high"]
_COLUMNS = (*_NAME, "kind", *_NUMBERS)


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
    earlier = _read(path)
    here = read_comparison(study)
    both = here[here["kind"] == "pair"].merge(earlier, on=_NAME, suffixes=("", "_there"), how="left")
    both = both.rename(columns={"from": "source"})
    lines, agreeing = [], 0
    for pair in both.itertuples():
        name = f"{pair.backbone} {pair.source} → {pair.to}"
        values = (pair.delta, pair.low, pair.high, pair.delta_there, pair.low_there, pair.high_there)
        if any(map(pd.isna, values)):
            lines.append(f"  {name}: cannot be compared, for one of the two has no interval")
            continue
        same = values[:3] == values[3:]
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
            if set(_COLUMNS) <= set(file.readline().rstrip("\n").split(",")):
                return path
    return None


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])  # an arm may be called null
        numbers = [name for name in _NUMBERS if name in table]
        table = table.astype(dict.fromkeys(numbers, "float64"))
    except (ValueError, TypeError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path}: not the CSV of `noah table`: {' '.join(str(error).split())[:300]}") from None
    absent = [name for name in _COLUMNS if name not in table.columns]
    if absent:
        raise ValueError(f"{path}: missing column '{absent[0]}', expected the CSV of `noah table` since version 0.2")
    table = table[table["kind"] == "pair"].astype(dict.fromkeys(_NAME, "string"))
    return table[[*_NAME, *_NUMBERS]]
