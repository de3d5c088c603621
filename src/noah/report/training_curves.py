"""Training curves and the difference of the arms over the epochs: whether a head is better, or only learns faster."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from noah.config import Study
from noah.files import read_csv
from noah.report.collect import run_folder
from noah.report.plot_style import legend, say_missing, style_of, title_of
from noah.report.rows import SCORES, Row, reference_arm
from noah.report.stats import CONFIDENCE

_PANELS_PER_LINE = 4


def training_curves(study: Study, rows: list[Row], comparison: pd.DataFrame) -> Figure:
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
        top.set_title(title_of(row, rows))
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
                say_missing(ax)
        bottom.set_xlabel("epoch")
    legend(figure, axes.flat)
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
    style = style_of(place)
    style["marker"] = style["marker"] if len(table) == 1 else None
    ax.plot(table.index, table.mean(axis=1), label=arm, **style)
    ax.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=style["color"], alpha=0.18, linewidth=0)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _difference_curve(ax: Axes, one: pd.DataFrame, other: pd.DataFrame, place: int) -> None:
    """Δ by epoch; from two seeds on with Welch's interval over seeds."""
    epochs = one.index.intersection(other.index)
    one, other = one.loc[epochs], other.loc[epochs]
    delta = other.mean(axis=1) - one.mean(axis=1)
    style = style_of(place)
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
            history = read_csv(path, "one line per epoch", numbers=needed)
            histories.setdefault(arm, []).append(history.set_index("epoch"))
    return histories
