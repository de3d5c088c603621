"""How a table looks: in Markdown and CSV here, in LaTeX, HTML and a terminal in the modules beside it."""

import re
from collections.abc import Callable

import pandas as pd
from rich.cells import cell_len

from noah.report.render_html import html
from noah.report.render_latex import latex
from noah.report.render_structure import Grid, Group, Table, plain
from noah.report.render_terminal import pad, terminal

__all__ = ["RENDERERS", "Grid", "Group", "Table", "csv", "html", "latex", "markdown", "terminal"]

LINE = 100
"""Characters of a raw Markdown line; what is longer loses spaces beside its bars."""
MARGINS = ((" ", " "), (" ", ""), ("", ""))


def markdown(table: Table) -> str:
    """GitHub's Markdown, with padded columns so that it also reads well as it is."""
    parts = [f"# {_escape(table.title)}"]
    for grid in table.grids:
        parts += [f"## {_escape(grid.caption)}", "\n".join(_grid(grid))]
    if table.notes:
        parts.append(_list(table.notes))
    if table.folded:
        parts.append("<details><summary>What the numbers rest on</summary>")
        parts += [_list(table.folded), "</details>"]
    return "\n\n".join(parts) + "\n"


def csv(table: Table) -> str:
    """The records, unrounded; an empty field is a number that does not exist."""
    return pd.DataFrame(list(table.records), dtype=object).to_csv(index=False, lineterminator="\n")


RENDERERS: dict[str, Callable[[Table], str]] = {"md": markdown, "tex": latex, "html": html, "csv": csv}


def _grid(grid: Grid) -> list[str]:
    """A heading is a row with one cell, which overhangs: it would widen the first column of all rows."""
    header, rows = [_escape(cell) for cell in grid.header], [[_escape(cell) for cell in row] for row in grid.rows]
    widths = [max(3, *map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    lengths = {margin: sum(widths) + (len("".join(margin)) + 1) * len(widths) + 1 for margin in MARGINS}
    margin = next((margin for margin, length in lengths.items() if length <= LINE), MARGINS[-1])
    dashes = ["-" * (width + len("".join(margin))) for width in widths]
    rule = [line if letter == "l" else f"{line[1:]}:" for line, letter in zip(dashes, grid.align, strict=True)]
    lines = [_row(header, widths, grid.align, margin), f"|{'|'.join(rule)}|"]
    padded = iter([_row(row, widths, grid.align, margin) for row in rows])
    for group in grid.groups:
        if group.heading:
            lines.append(f"| **{_escape(group.heading)}** |" + " |" * (len(widths) - 1))
        lines += [next(padded) for _ in group.rows]
    return lines


def _row(cells: list[str], widths: list[int], align: str, margin: tuple[str, str]) -> str:
    padded = [pad(cell, width, letter) for cell, width, letter in zip(cells, widths, align, strict=True)]
    return "|" + "|".join(cell.join(margin) for cell in padded) + "|"


def _list(notes: tuple[str, ...]) -> str:
    """What opens a block (a heading, a list, a quote, a task) would do so inside an item too."""
    opens = r"^(\d*)([-#+>.)=]+(?:\s|$)|>|\[[ xX]\])"
    return "\n".join("- " + re.sub(opens, r"\1\\\2", _escape(note)) for note in notes)


def _escape(text: str) -> str:
    """Only what would become markup: underscores inside words, intervals, `<0.001` and a lone `&` stay as they are."""
    text = re.sub(r"([\\|*`~$]|\[(?=\^)|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", plain(text))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))
