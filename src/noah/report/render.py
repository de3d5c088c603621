"""A table is headers, cells and notes; how they look in Markdown, LaTeX, HTML and CSV is decided here alone."""

import html as html_escapes
import re
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

TEXT_COLUMNS = 2
"""Leading columns that name a row: left-aligned; all others are numbers."""


@dataclass(frozen=True)
class Grid:
    """Plain, unescaped text."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        assert all(len(row) == len(self.header) for row in self.rows)


@dataclass(frozen=True)
class Table:
    """What one file shows: grids one below the other, notes under them, and the unrounded records behind both."""

    title: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]
    records: tuple[dict, ...]


def markdown(table: Table) -> str:
    """GitHub's Markdown, with padded columns so that it also reads well in a terminal."""
    parts = [f"# {_escape_markdown(table.title)}"]
    for grid in table.grids:
        cells = [[_escape_markdown(cell) for cell in row] for row in (grid.header, *grid.rows)]
        widths = [max(3, *(len(cell) for cell in column)) for column in zip(*cells, strict=True)]
        lines = [
            "| "
            + " | ".join(_pad(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            + " |"
            for row in cells
        ]
        rule = "|" + "|".join(
            "-" * (width + 2) if i < TEXT_COLUMNS else "-" * (width + 1) + ":" for i, width in enumerate(widths)
        )
        parts += [f"## {_escape_markdown(grid.caption)}", "\n".join([lines[0], rule + "|", *lines[1:]])]
    parts.append("\n".join(f"- {_escape_markdown(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
    r"""A fragment for \input, one `table*` per grid; needs the packages booktabs and graphicx."""
    parts = [r"% needs \usepackage{booktabs,graphicx}"]
    for grid in table.grids:
        lines = [" & ".join(_escape_latex(cell) for cell in row) + r" \\" for row in (grid.header, *grid.rows)]
        columns = "l" * TEXT_COLUMNS + "r" * (len(grid.header) - TEXT_COLUMNS)
        parts.append(
            "\n".join(
                [
                    r"\begin{table*}",
                    r"\centering",
                    rf"\caption{{{_escape_latex(f'{table.title}: {grid.caption}')}}}",
                    r"\resizebox{\textwidth}{!}{%",
                    rf"\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    lines[0],
                    r"\midrule",
                    *lines[1:],
                    r"\bottomrule",
                    r"\end{tabular}}",
                    r"\end{table*}",
                ]
            )
        )
    notes = [rf"\item {_escape_latex(note)}" for note in table.notes]
    parts.append("\n".join([r"{\footnotesize\begin{itemize}", *notes, r"\end{itemize}}"]))
    return "\n\n".join(parts) + "\n"


def html(table: Table) -> str:
    """One self-contained page."""
    escape = html_escapes.escape
    body = [f"<h1>{escape(table.title)}</h1>"]
    for grid in table.grids:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in grid.header)
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in grid.rows]
        body += [
            f"<table>\n<caption>{escape(grid.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>",
            *(f"<tr>{row}</tr>" for row in rows),
            "</tbody>\n</table>",
        ]
    body += ["<ul>", *(f"<li>{escape(note)}</li>" for note in table.notes), "</ul>"]
    return _PAGE.format(title=escape(table.title), text_columns=TEXT_COLUMNS, body="\n".join(body))


def csv(table: Table) -> str:
    """The records, unrounded; an empty field is a number that does not exist."""
    return pd.DataFrame(list(table.records), dtype=object).to_csv(index=False, lineterminator="\n")


RENDERERS: dict[str, Callable[[Table], str]] = {"md": markdown, "tex": latex, "html": html, "csv": csv}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }}
table {{ border-collapse: collapse; margin: 1.5rem 0; }}
caption {{ text-align: left; font-weight: 600; padding-bottom: .4rem; }}
th, td {{ padding: .3rem .7rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
th:nth-child(-n+{text_columns}), td:nth-child(-n+{text_columns}) {{ text-align: left; }}
thead th {{ border-top: 2px solid; border-bottom: 1px solid; }}
tbody tr:last-child td {{ border-bottom: 2px solid; }}
li {{ max-width: 60rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "<": "$<$",
    ">": "$>$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "→": r"$\to$",
    "²": "$^2$",
    "—": "---",
    "·": r"$\cdot$",
}


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < TEXT_COLUMNS else cell.rjust(width)


def _escape_markdown(text: str) -> str:
    """Only what would become markup: underscores inside words, `<0.001` and a lone `&` read the same when rendered."""
    text = re.sub(r"([\\|*`\[\]])", r"\\\1", " ".join(text.split()))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))


def _escape_latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return re.sub(r"^-(?=\d)", "$-$", escaped)
