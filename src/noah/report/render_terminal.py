"""The table as a terminal shows it: as wide as its text, narrower where the screen is, never a number in two."""

import re
from collections.abc import Sequence

from rich.cells import cell_len, chop_cells

from noah.report.render_structure import Grid, Table, plain

KEPT = 4
"""Leading columns that stay on the narrowest screen: arm, score, difference, verdict."""
NAME_LEAST = 8
"""Characters of the first column that stay, the rest of a name going below."""


def terminal(table: Table, width: int, notes: bool = False) -> str:
    """Plain text of at most `width` columns; `notes` shows the folded notes too."""
    parts = _wrap(table.title, width)
    for grid in table.grids:
        parts += ["", *_grid(grid, width)]
    shown = (*table.notes, *(table.folded if notes else ()))
    parts += [""] * bool(shown)
    for note in shown:
        parts += [f"{'  ' if i else '- '}{line}" for i, line in enumerate(_wrap(note, width - 2))]
    return "\n".join(parts) + "\n"


def _grid(grid: Grid, width: int) -> list[str]:
    header, rows = [plain(cell) for cell in grid.header], [[plain(cell) for cell in row] for row in grid.rows]
    gap, widths = _layout([header, *rows], width)
    wrapped = iter([_lines(row, widths, grid.align, gap) for row in rows])
    total = sum(widths) + gap * (len(widths) - 1)
    lines = [*_wrap(grid.caption, width), "", *_lines(header, widths, grid.align, gap, bottom=True), "─" * total]
    for i, group in enumerate(grid.groups):
        if group.heading:
            lines += [*[""][: bool(i)], *_wrap(group.heading, width)]
        for _ in group.rows:
            lines += next(wrapped)
    if left_out := header[len(widths) :]:
        lines += _wrap(f"Left out for want of width, to be found in comparison.csv: {', '.join(left_out)}", width)
    return lines


def _layout(cells: list[list[str]], width: int) -> tuple[int, list[int]]:
    """The gap between columns and the widths of those that fit; narrower headers and gaps come before fewer columns."""
    columns = list(zip(*cells, strict=True))
    full = [max(map(cell_len, column)) for column in columns]
    body = [max(_longest_word(column[0]), *map(cell_len, column[1:]), 1) for column in columns]
    for gap, widths in ((2, full), (2, body), (1, body)):
        if sum(widths) + gap * (len(widths) - 1) <= width:
            return gap, widths
    while len(body) > KEPT and sum(body) + len(body) - 1 > width:
        body.pop()
    least = [max(map(_longest_word, column)) for column in columns]
    least[0] = min(body[0], NAME_LEAST)
    while sum(body) + len(body) - 1 > width:
        spare = [i for i, (now, low) in enumerate(zip(body, least, strict=False)) if now > low]
        if not spare:
            break
        body[max(spare, key=lambda i: body[i])] -= 1
    return 1, body


def _longest_word(text: str) -> int:
    return max(cell_len(piece.rstrip()) for piece in _pieces(text))


def _lines(row: Sequence[str], widths: list[int], align: str, gap: int, bottom: bool = False) -> list[str]:
    """The lines of one row; `bottom` sets shorter cells on the last line, as a header's."""
    cells = [
        _wrap(cell, width, after="-_" if i == 0 else "")
        for i, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
    height = max(map(len, cells))
    cells = [[""] * (height - len(cell)) + cell if bottom else cell + [""] * (height - len(cell)) for cell in cells]
    lines = []
    for line in zip(*cells, strict=True):
        padded = [pad(text, width, letter) for text, width, letter in zip(line, widths, align, strict=False)]
        lines.append((" " * gap).join(padded).rstrip())
    return lines


def pad(text: str, width: int, letter: str) -> str:
    """Wide characters count as the two columns they take."""
    space = " " * (width - cell_len(text))
    return text + space if letter == "l" else space + text


def _wrap(text: str, width: int, after: str = "") -> list[str]:
    """Lines cut between pieces; inside a piece only where it is longer than a line."""
    lines = [""]
    for piece in _pieces(text, after):
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        chopped = chop_cells(piece, width) if cell_len(piece.rstrip()) > width else [piece]
        lines[-1] += chopped[0]
        lines += chopped[1:]
    return [line.rstrip() for line in lines]


def _pieces(text: str, after: str = "") -> list[str]:
    """Cut after spaces and the characters of `after`; a ± stays with its number."""
    return re.split(rf"(?<=[\s{re.escape(after)}])(?<!± )", plain(text))
