r"""The table as a fragment for \input: it fits an article in one column, in letters of 7 points or more."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

from noah.report.render_latex_text import DEFINE_GLYPHS, GLYPHS, escape, points
from noah.report.render_structure import Grid, Group, Table, plain

TEXT_WIDTH = 345
"""Points: \textwidth of article at 10pt."""
GAP = 6
r"""Points between two columns: twice \tabcolsep."""
SIZES = {"footnotesize": 1.0, "scriptsize": 0.94}
"""How wide letters are against 8 points."""
NAME_LEAST = 60
"""Points that a first column with wrapped names has at least."""
LINES = 40
"""Of a float."""
FLOATS = 8
"""LaTeX stops when too many wait for a page."""


@dataclass(frozen=True)
class _Layout:
    size: str
    header: tuple[list[str], ...]
    """The lines of each cell."""
    name_width: float | None
    """Of the first column where its names are wrapped, in points of 8-point letters."""

    def name(self, row: tuple[str, ...]) -> list[str]:
        return [row[0]] if self.name_width is None else _fill(row[0], self.name_width)

    def lines(self, group: Group) -> int:
        return bool(group.heading) + sum(len(self.name(row)) for row in group.rows)


def latex(table: Table) -> str:
    r"""Floats (`table*`, for articles in one column and in two) of at most 40 lines; folded notes are comments."""
    parts, floats = [], 0
    for grid in table.grids:
        layout = _layout(grid)
        for i, groups in enumerate(_pieces(grid, layout)):
            if floats and floats % FLOATS == 0:
                parts.append(r"\clearpage")
            caption = rf"\caption{{{escape(f'{table.title}: {grid.caption}')}}}"
            # No second \caption: the table keeps its number, and lists of tables name it once.
            parts.append(_float(grid, groups, layout, caption if i == 0 else _CONTINUED))
            floats += 1
    if table.notes:
        items = [rf"\item {escape(note)}" for note in table.notes]
        parts.append("\n".join([r"{\footnotesize\begin{itemize}", *items, r"\end{itemize}}"]))
    if table.folded:
        comments = [line for note in table.folded for line in wrap(plain(note), 110, initial_indent="- ")]
        parts.append("\n".join(f"% {line}" for line in ("What the numbers rest on:", *comments)))
    return "\n\n".join([*_needs("\n".join(parts)), *parts]) + "\n"


_CONTINUED = r"\tablename~\thetable{} (continued)\par\smallskip"


def _needs(text: str) -> list[str]:
    if GLYPHS not in text:
        return [r"% Needs \usepackage{booktabs}."]
    fonts = "their fonts: Debian's latex-cjk-chinese-arphic-gbsn00lp, …-bsmi00lp, latex-cjk-japanese-wadalab"
    return [
        rf"% Needs \usepackage{{booktabs}}, and for Chinese and Japanese \usepackage{{CJKutf8}} ({fonts})."
        "\n% Without it pdflatex shows a question mark; xelatex and lualatex show them in a main font that has them.",
        DEFINE_GLYPHS,
    ]


def _layout(grid: Grid) -> _Layout:
    """The largest letters that fit: headers become narrower first, then names are wrapped, then letters shrink."""
    body = [max(map(points, column), default=0) for column in zip(*grid.rows, strict=True)] or [0] * len(grid.header)
    flat = tuple([cell] for cell in grid.header)
    words = [max(map(points, cell.split()), default=0) for cell in grid.header]
    narrow = tuple(_fill(cell, max(sizes)) for cell, *sizes in zip(grid.header, body, words, strict=True))
    for size, scale in SIZES.items():
        room = (TEXT_WIDTH - GAP * (len(body) - 1)) / scale
        for header in (flat, narrow):
            if sum(_widths(header, body)) <= room:
                return _Layout(size, header, None)
        rest = room - sum(_widths(narrow, body)[1:])
        if rest >= NAME_LEAST:
            break
    return _Layout(size, narrow, max(rest, NAME_LEAST))


def _widths(header: tuple[list[str], ...], body: list[float]) -> list[float]:
    return [max(width, *map(points, lines)) for lines, width in zip(header, body, strict=True)]


def _fill(text: str, width: float) -> list[str]:
    """Lines of at most so many points, cut after spaces, hyphens and underscores where that is possible."""
    lines = [""]
    for piece in re.findall(r"[^\s_-]*[\s_-]+|[^\s_-]+", plain(text)):
        if lines[-1] and points((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        for character in piece:
            if lines[-1] and not character.isspace() and points(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line.rstrip() for line in lines]


def _pieces(grid: Grid, layout: _Layout) -> Iterator[list[Group]]:
    """The groups of each float: cut between groups where it can be."""
    piece, used = [], 0
    for group in grid.groups:
        rest, lines = group, layout.lines(group)
        if piece and used + lines > LINES:
            yield piece
            piece, used = [], 0
        while lines > LINES:
            head, rest = _split(rest, layout)
            yield [head]
            lines = layout.lines(rest)
        piece, used = [*piece, rest], used + lines
    yield piece


def _split(group: Group, layout: _Layout) -> tuple[Group, Group]:
    """What fills one float, and the rest."""
    taken = len(group.rows)
    while taken > 1 and layout.lines(Group(group.heading, group.rows[:taken])) > LINES:
        taken -= 1
    heading = group.heading and group.heading.removesuffix(" (continued)") + " (continued)"
    return Group(group.heading, group.rows[:taken]), Group(heading, group.rows[taken:])


def _float(grid: Grid, groups: list[Group], layout: _Layout, caption: str) -> str:
    lines = []
    for i, group in enumerate(groups):
        lines += [r"\addlinespace"][: bool(i)]
        if group.heading:
            lines.append(_heading(group.heading, len(grid.align)))
        for row in group.rows:
            name = _stacked(layout.name(row), "t", grid.align[0])
            lines.append(" & ".join([name, *map(escape, row[1:])]) + r" \\")
    header = [_stacked(cell, "b", letter) for cell, letter in zip(layout.header, grid.align, strict=True)]
    return "\n".join(
        [
            r"\begin{table*}[htbp]",
            r"\centering\setlength{\belowcaptionskip}{4pt}",
            caption,
            rf"\{layout.size}\setlength{{\tabcolsep}}{{{GAP // 2}pt}}",
            rf"\begin{{tabular}}{{@{{}}{grid.align}@{{}}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
        ]
    )


def _stacked(lines: list[str], position: str, letter: str) -> str:
    """One cell of several lines, whose `position` (t or b) is level with its row."""
    if len(lines) == 1:
        return escape(lines[0])
    body = r" \\ ".join(map(escape, lines))
    return rf"\begin{{tabular}}[{position}]{{@{{}}{letter}@{{}}}}{body}\end{{tabular}}"


def _heading(text: str, columns: int) -> str:
    """It overhangs the columns, which it would widen otherwise; bold letters are a sixth wider."""
    bold = rf"\textbf{{{escape(text)}}}"
    if points(text) * 1.17 > TEXT_WIDTH:
        return rf"\multicolumn{{{columns}}}{{@{{}}p{{{TEXT_WIDTH}pt}}@{{}}}}{{\raggedright {bold}}} \\"
    return rf"\multicolumn{{{columns}}}{{@{{}}l@{{}}}}{{\makebox[0pt][l]{{{bold}}}}} \\"
