"""What a table is before it has a form: grids of plain text in groups, notes, and the records behind them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a heading; "" is no heading."""

    heading: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Grid:
    """Plain, unescaped text; `align` has one letter per column, l or r."""

    caption: str
    header: tuple[str, ...]
    groups: tuple[Group, ...]
    align: str

    def __post_init__(self):
        assert len(self.align) == len(self.header), (self.align, self.header)
        assert set(self.align) <= {"l", "r"}, self.align
        assert all(len(row) == len(self.header) for row in self.rows), self.header

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        return tuple(row for group in self.groups for row in group.rows)


@dataclass(frozen=True)
class Table:
    """What one file shows: grids one below the other, notes under them, and the unrounded records behind both."""

    title: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]
    """Few and short: always shown."""
    folded: tuple[str, ...]
    """Long: folded away where the format can."""
    records: tuple[dict, ...]


def plain(text: str) -> str:
    """One line without characters that steer a terminal, a browser or TeX."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
