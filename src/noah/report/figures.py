"""Training curves and differences with their intervals, from the tables' own numbers; same files, same bytes."""

import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noah.config import Study
from noah.files import write_atomic
from noah.report.comparison_table import read_comparison
from noah.report.plot_style import legend, style_of, title_of
from noah.report.published import PUBLISHED_ON
from noah.report.rows import SCORES, Row, rows_of
from noah.report.training_curves import training_curves

_STYLE = {
    "svg.hashsalt": "noah",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "text.parse_math": False,
}
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC")
_NO_DATE = {"svg": {"Date": None}, "png": {"Software": None}}


def write_figures(study: Study) -> list[Path]:
    """Write training_curves and differences, svg and png, to `{study.results}/figures`; missing runs leave gaps.

    Raises:
        ValueError: The study was not compared, or a history is broken.
    """
    rows, comparison = rows_of(study), read_comparison(study)
    paths = []
    fonts = [name for name in _FONTS if name in font_manager.get_font_names()]
    with (
        matplotlib.rc_context({**_STYLE, "font.family": fonts or ["DejaVu Sans"]}),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        figures = {
            "training_curves": training_curves(study, rows, comparison),
            "differences": differences(study, rows, comparison),
        }
        for name, figure in figures.items():
            for suffix, metadata in _NO_DATE.items():
                paths.append(study.results / "figures" / f"{name}.{suffix}")
                with write_atomic(paths[-1]) as temporary:
                    figure.savefig(temporary, format=suffix, dpi=150, metadata=metadata)
    _tell(caught)
    return paths


def _tell(caught: list[warnings.WarningMessage]) -> None:
    """One line for all letters that no font here has; other warnings as they came."""
    if any("missing from font" in str(warning.message) for warning in caught):
        print("noah: figures have letters that no font here shows: install fonts-noto-cjk", file=sys.stderr)
    for warning in caught:
        if "missing from font" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def differences(study: Study, rows: list[Row], comparison: pd.DataFrame) -> Figure:
    """Per backbone, each pair's difference with its interval, and the paper's number as an open diamond."""
    entries = comparison[comparison["kind"] == "pair"]
    pairs = list(dict.fromkeys(zip(entries["from"], entries["to"], strict=True)))
    height = 1.6 + (0.3 + 0.13 * max(1, len(pairs))) * len(rows) + 0.2 * len(pairs)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    ax = figure.subplots()
    lanes = np.linspace(0.35, -0.35, len(pairs)) if len(pairs) > 1 else [0.0]
    for place, row in enumerate(rows):
        own = entries[(entries[["dataset", "recipe", "backbone"]] == list(row.name)).all(axis=1)]
        for _, entry in own.iterrows():
            number = pairs.index((entry["from"], entry["to"]))
            _difference(ax, len(rows) - 1 - place + lanes[number], entry, number)
    ax.axvline(0, color="#555555", linewidth=0.8)
    ax.set_yticks(np.arange(len(rows))[::-1], [title_of(row, rows) for row in rows])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    scores = " or ".join(dict.fromkeys(SCORES[row.score] for row in rows))
    ax.set_xlabel(f"difference in {scores} (percentage points)")
    ax.set_title(study.spec.title)
    legend(figure, [ax])
    return figure


def _difference(ax: Axes, y: float, entry: pd.Series, place: int) -> None:
    name, style = f"{entry['from']} → {entry['to']}", style_of(place)
    colour = style["color"]
    if pd.isna(entry["delta"]):
        ax.text(0.01, y, "missing", color=colour, va="center", style="italic", transform=ax.get_yaxis_transform())
    else:
        alone = pd.isna(entry["half_width"])
        label = f"{name}: measured, " + ("no interval" if alone else "95% interval")
        spread = None if alone else entry["half_width"]
        bars = ax.errorbar(entry["delta"], y, xerr=spread, fmt=style["marker"], color=colour, capsize=2, label=label)
        for line in bars.lines[2]:
            line.set_linestyle(style["linestyle"])
    if not pd.isna(entry["published_delta"]):
        label = f"{name}: published, {PUBLISHED_ON}"
        ax.plot(entry["published_delta"], y, "d", mfc="none", mec=colour, markersize=8, label=label)
