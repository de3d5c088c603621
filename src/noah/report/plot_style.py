"""How figures look: colours, lines, legends, and what stands where something is missing."""

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noah.report.rows import Row

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: told apart by colour-blind readers. Line styles and markers repeat what it says."""

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def style_of(place: int) -> dict:
    """Of arm or pair number `place`: colours first, then lines and markers, so that no two of 28 look alike."""
    turn = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": _LINES[turn % len(_LINES)],
        "marker": _MARKERS[(place + turn) % len(_MARKERS)],
    }


def legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend under the figure, each label once, in as many columns as fit."""
    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        letters = max(map(len, handles)) + 6
        ncols = max(1, min(len(handles), int(figure.get_figwidth() * 14 / letters)))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols)


def say_missing(ax: Axes) -> None:
    ax.text(0.5, 0.5, "missing", transform=ax.transAxes, ha="center", va="center", style="italic", color="#777777")
    ax.set_xticks([])
    ax.set_yticks([])


def title_of(row: Row, rows: list[Row]) -> str:
    """The backbone, with dataset and recipe where they vary."""
    name = row.backbone.slug
    several = len({(other.dataset, other.recipe) for other in rows}) > 1
    return f"{name}\n{row.dataset}, {row.recipe}" if several else name
