"""Training curves and differences with their intervals, from the rows of the tables; same files, same bytes."""

import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noah.config import Study
from noah.files import reading, write_atomic
from noah.report.collect import run_folder
from noah.report.comparison import PUBLISHED_ON, SCORES, PairResult, Row, compare

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: told apart by colour-blind readers. Line styles and markers repeat what it says."""

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
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
_NO_DATE = {"svg": {"Date": None}, "png": {"Software": None}}
_PANELS_PER_LINE = 4


def write_figures(study: Study) -> list[Path]:
    """Write training_curves and differences, svg and png, to `{study.results}/figures`; missing runs leave gaps.

    Raises:
        ValueError: The study was not collected, or a history is broken.
    """
    rows = compare(study)
    figures = {"training_curves": _training_curves, "differences": _differences}
    paths = []
    with matplotlib.rc_context(_STYLE):
        for name, draw in figures.items():
            figure = draw(study, rows)
            for suffix, metadata in _NO_DATE.items():
                paths.append(study.results / "figures" / f"{name}.{suffix}")
                with write_atomic(paths[-1]) as temporary:
                    figure.savefig(temporary, format=suffix, dpi=150, metadata=metadata)
    return paths


def _training_curves(study: Study, rows: list[Row]) -> Figure:
    """Per backbone: the minival's score above the training loss, by epoch."""
    per_line = min(_PANELS_PER_LINE, len(rows))
    lines = math.ceil(len(rows) / per_line)
    figure = Figure(figsize=(3.2 * per_line + 0.6, 4.4 * lines + 0.6), layout="constrained")
    axes = figure.subplots(2 * lines, per_line, squeeze=False)
    for unused in range(len(rows), lines * per_line):
        for half in (0, 1):
            axes[2 * (unused // per_line) + half, unused % per_line].set_axis_off()
    for index, row in enumerate(rows):
        top, bottom = (axes[2 * (index // per_line) + half, index % per_line] for half in (0, 1))
        histories = _histories(study, row)
        top.set_title(_title(row, rows))
        minival = (top, f"minival_{row.score}", f"minival {SCORES[row.score]} (%)")
        for ax, metric, label in (minival, (bottom, "train_loss", "training loss")):
            for place, arm in enumerate(study.spec.arms):
                curves = [history[metric].dropna() for history in histories.get(arm, [])]
                _curve(ax, [curve for curve in curves if len(curve)], arm, place)
            if index % per_line == 0 or row.score != rows[index - 1].score:
                ax.set_ylabel(label)
            if not ax.lines:
                _say_missing(ax)
        bottom.set_xlabel("epoch")
    _legend(figure, axes.flat, ncols=len(study.spec.arms))
    figure.suptitle(f"{study.spec.title}: mean and range over seeds")
    return figure


def _curve(ax: Axes, curves: list[pd.Series], arm: str, place: int) -> None:
    """The mean over seeds, and a band from the lowest to the highest."""
    if not curves:
        return
    table = pd.concat(curves, axis=1)
    colour = COLOURS[place % len(COLOURS)]
    marker = _MARKERS[place % len(_MARKERS)] if len(table) == 1 else None
    ax.plot(table.index, table.mean(axis=1), _LINES[place % len(_LINES)], color=colour, marker=marker, label=arm)
    ax.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.18, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _histories(study: Study, row: Row) -> dict[str, list[pd.DataFrame]]:
    """Arm -> the history of each finished seed, indexed by epoch."""
    histories: dict[str, list[pd.DataFrame]] = {}
    for run in study.runs:
        if (run.dataset.name, run.recipe_name, run.backbone) != (row.dataset, row.recipe, row.backbone):
            continue
        if run.seed not in row.arms[run.arm].seeds:
            continue
        path = run_folder(study, run) / "history.csv"
        needed = ("epoch", "train_loss", f"minival_{row.score}")
        with reading(path):
            history = pd.read_csv(path)
        absent = set(needed) - set(history.columns)
        if absent:
            raise ValueError(f"{path}: missing column '{min(absent)}'")
        with reading(path):
            history = history.astype(dict.fromkeys(needed, "float64"))
        histories.setdefault(run.arm, []).append(history.set_index("epoch"))
    return histories


def _differences(study: Study, rows: list[Row]) -> Figure:
    """Per backbone, each pair's difference with its interval, and the paper's number as an open diamond."""
    pairs = study.spec.compare
    figure = Figure(figsize=(7.5, 1.6 + 0.4 * len(rows) * max(1, len(pairs)) + 0.2 * len(pairs)), layout="constrained")
    ax = figure.subplots()
    heights = np.arange(len(rows))[::-1]
    lanes = np.linspace(0.25, -0.25, len(pairs)) if len(pairs) > 1 else [0.0]
    for height, row in zip(heights, rows, strict=True):
        for place, pair in enumerate(pairs):
            if row.pairs[pair] is not None:
                _difference(ax, height + lanes[place], row.pairs[pair], " → ".join(pair), place)
    ax.axvline(0, color="#555555", linewidth=0.8)
    ax.set_yticks(heights, [_title(row, rows) for row in rows])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    scores = " or ".join(dict.fromkeys(SCORES[row.score] for row in rows))
    ax.set_xlabel(f"difference in {scores} (percentage points)")
    ax.set_title(study.spec.title)
    _legend(figure, [ax], ncols=1)
    return figure


def _difference(ax: Axes, y: float, result: PairResult, name: str, place: int) -> None:
    colour, marker = COLOURS[place % len(COLOURS)], _MARKERS[place % len(_MARKERS)]
    if result.difference is None:
        ax.text(0.01, y, "missing", color=colour, va="center", style="italic", transform=ax.get_yaxis_transform())
    else:
        label = f"{name}: measured, 95% interval"
        if not result.difference.seeds_covered:
            label += " (seeds not covered)"
        spread = result.difference.half_width
        ax.errorbar(result.difference.delta, y, xerr=spread, fmt=marker, color=colour, capsize=3, label=label)
    if result.published_delta is not None:
        label = f"{name}: published, {PUBLISHED_ON}"
        ax.plot(result.published_delta, y, "d", mfc="none", mec=colour, markersize=8, label=label)


def _legend(figure: Figure, axes: Iterable[Axes], ncols: int) -> None:
    """One legend under the figure, each label once."""
    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols)


def _say_missing(ax: Axes) -> None:
    ax.text(0.5, 0.5, "missing", transform=ax.transAxes, ha="center", va="center", style="italic", color="#777777")
    ax.set_xticks([])
    ax.set_yticks([])


def _title(row: Row, rows: list[Row]) -> str:
    """The backbone, with dataset and recipe where they vary."""
    name = row.backbone.slug
    several = len({(other.dataset, other.recipe) for other in rows}) > 1
    return f"{name}\n{row.dataset}, {row.recipe}" if several else name
