"""Training curves and differences with their intervals, from the tables' own numbers; same files, same bytes."""

import math
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from noah.config import Study
from noah.files import reading, write_atomic
from noah.report.collect import run_folder
from noah.report.comparison_table import read_comparison
from noah.report.published import PUBLISHED_ON
from noah.report.rows import SCORES, Row, reference_arm, rows_of
from noah.report.stats import CONFIDENCE

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
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC")
_NO_DATE = {"svg": {"Date": None}, "png": {"Software": None}}
_PANELS_PER_LINE = 4


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
            "training_curves": _training_curves(study, rows, comparison),
            "differences": _differences(study, rows, comparison),
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


def _style(place: int) -> dict:
    """Of arm or pair number `place`: colours first, then lines and markers, so that no two of 28 look alike."""
    turn = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": _LINES[turn % len(_LINES)],
        "marker": _MARKERS[(place + turn) % len(_MARKERS)],
    }


def _training_curves(study: Study, rows: list[Row], comparison: pd.DataFrame) -> Figure:
    """Per backbone by epoch: the minival's score, its difference to the reference arm, and the training loss."""
    per_line = min(_PANELS_PER_LINE, len(rows))
    lines = math.ceil(len(rows) / per_line)
    figure = Figure(figsize=(3.2 * per_line + 0.6, 6.2 * lines + 0.6), layout="constrained")
    axes = figure.subplots(3 * lines, per_line, squeeze=False)
    for unused in range(len(rows), lines * per_line):
        for part in range(3):
            axes[3 * (unused // per_line) + part, unused % per_line].set_axis_off()
    reference = reference_arm(study)
    for index, row in enumerate(rows):
        top, middle, bottom = (axes[3 * (index // per_line) + part, index % per_line] for part in range(3))
        finished = _finished_seeds(row, comparison)
        histories = _histories(study, row, finished)
        top.set_title(_title(row, rows))
        minival = _curves(histories, f"minival_{row.score}")
        for place, arm in enumerate(study.spec.arms):
            _curve(top, minival.get(arm), arm, place)
            _curve(bottom, _curves(histories, "train_loss").get(arm), arm, place)
            if arm != reference and arm in minival and reference in minival:
                _difference_curve(middle, minival[reference], minival[arm], place)
        middle.axhline(0, color="#555555", linewidth=0.8)
        if index % per_line == 0 or row.score != rows[index - 1].score:
            name = SCORES[row.score]
            labels = (f"minival {name} (%)", f"Δ {name} to {reference}", "training loss")
            for ax, label in zip((top, middle, bottom), labels, strict=True):
                ax.set_ylabel(label)
        for ax in (top, middle, bottom):
            if not any(len(line.get_xdata()) and line.get_label()[0] != "_" for line in ax.lines) and ax is not middle:
                _say_missing(ax)
        bottom.set_xlabel("epoch")
    _legend(figure, axes.flat)
    figure.suptitle(f"{study.spec.title}: mean and range over seeds; Δ with its 95% interval over seeds")
    return figure


def _finished_seeds(row: Row, comparison: pd.DataFrame) -> dict[str, set[int]]:
    """Arm -> seeds that count, as the comparison has them; an arm that it has no pair of is taken whole."""
    pairs = comparison[comparison["kind"] == "pair"]  # the others name no backbone
    own = pairs[(pairs[["dataset", "recipe", "backbone"]] == list(row.name)).all(axis=1)]
    seeds = {arm: set(of_seed) for arm, of_seed in row.arms.items()}
    for side in ("from", "to"):
        for arm, listed in zip(own[side], own[f"seeds_{side}"], strict=True):
            seeds[arm] = set() if pd.isna(listed) else set(map(int, listed.split(";")))
    return seeds


def _curves(histories: dict[str, list[pd.DataFrame]], metric: str) -> dict[str, pd.DataFrame]:
    """Arm -> (epochs, seeds); epochs that no seed was measured at are left out."""
    tables = {arm: pd.concat([h[metric] for h in of_seed], axis=1) for arm, of_seed in histories.items() if of_seed}
    return {arm: table.dropna(how="all") for arm, table in tables.items()}


def _curve(ax: Axes, table: pd.DataFrame | None, arm: str, place: int) -> None:
    """The mean over seeds, and a band from the lowest to the highest."""
    if table is None or table.empty:
        return
    style = _style(place)
    style["marker"] = style["marker"] if len(table) == 1 else None
    ax.plot(table.index, table.mean(axis=1), label=arm, **style)
    ax.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=style["color"], alpha=0.18, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _difference_curve(ax: Axes, one: pd.DataFrame, other: pd.DataFrame, place: int) -> None:
    """Δ by epoch; from two seeds on with Welch's interval over seeds."""
    epochs = one.index.intersection(other.index)
    one, other = one.loc[epochs], other.loc[epochs]
    delta = other.mean(axis=1) - one.mean(axis=1)
    style = _style(place)
    ax.plot(epochs, delta, **{**style, "marker": style["marker"] if len(epochs) == 1 else None})
    parts = [table.var(axis=1, ddof=1) / table.count(axis=1) for table in (one, other)]
    if min(one.shape[1], other.shape[1]) > 1:
        v = sum(parts)
        df = v**2 / sum(part**2 / (table.shape[1] - 1) for part, table in zip(parts, (one, other), strict=True))
        width = stdtrit(df.fillna(1), (1 + CONFIDENCE) / 2) * np.sqrt(v)
        ax.fill_between(epochs, delta - width, delta + width, color=style["color"], alpha=0.18, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _histories(study: Study, row: Row, finished: dict[str, set[int]]) -> dict[str, list[pd.DataFrame]]:
    """Arm -> the history of each finished seed, indexed by epoch."""
    histories: dict[str, list[pd.DataFrame]] = {}
    for arm, of_seed in row.arms.items():
        for seed, run in of_seed.items():
            path = run_folder(study, run) / "history.csv"
            if seed not in finished[arm] or not path.is_file():
                continue
            needed = ("epoch", "train_loss", f"minival_{row.score}")
            with reading(path):
                history = pd.read_csv(path)
            absent = set(needed) - set(history.columns)
            if absent:
                raise ValueError(f"{path}: missing column '{min(absent)}'")
            with reading(path):
                history = history.astype(dict.fromkeys(needed, "float64"))
            histories.setdefault(arm, []).append(history.set_index("epoch"))
    return histories


def _differences(study: Study, rows: list[Row], comparison: pd.DataFrame) -> Figure:
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
    ax.set_yticks(np.arange(len(rows))[::-1], [_title(row, rows) for row in rows])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    scores = " or ".join(dict.fromkeys(SCORES[row.score] for row in rows))
    ax.set_xlabel(f"difference in {scores} (percentage points)")
    ax.set_title(study.spec.title)
    _legend(figure, [ax])
    return figure


def _difference(ax: Axes, y: float, entry: pd.Series, place: int) -> None:
    name, style = f"{entry['from']} → {entry['to']}", _style(place)
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


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend under the figure, each label once, in as many columns as fit."""
    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        letters = max(map(len, handles)) + 6
        ncols = max(1, min(len(handles), int(figure.get_figwidth() * 14 / letters)))
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
