"""What reports say of a study, as tests ask for it."""

import pandas as pd

from noah.config import Study
from noah.report.collect import collect
from noah.report.comparison import compare
from noah.report.comparison_table import read_comparison
from noah.report.tables import build_table, write_tables


def collected_and_compared(study: Study) -> pd.DataFrame:
    """The comparison; what tables and figures are made of is there."""
    collect(study)
    compare(study)
    return read_comparison(study)


def pair_of(table: pd.DataFrame, backbone: str, one: str, other: str, kind: str = "pair") -> pd.Series:
    """The one row of a pair on a backbone."""
    rows = table[(table["kind"] == kind) & (table["from"] == one) & (table["to"] == other)]
    rows = rows[rows["backbone"] == backbone] if kind == "pair" else rows
    assert len(rows) == 1
    return rows.iloc[0]


def lines(study: Study, caption: str = "Accuracy and cost") -> dict[str, dict[str, dict[str, str]]]:
    """Backbone -> first cell of the line (an arm or a pair) -> column -> cell, of the grid with that caption."""
    grid = next(grid for grid in build_table(study).grids if grid.caption == caption)
    return {
        group.heading: {row[0]: dict(zip(grid.header, row, strict=True)) for row in group.rows} for group in grid.groups
    }


def captions(study: Study) -> list[str]:
    return [grid.caption for grid in build_table(study).grids]


def notes(study: Study) -> str:
    """Shown and folded ones."""
    table = build_table(study)
    return "\n".join((*table.notes, *table.folded))


def read_csv(study: Study) -> pd.DataFrame:
    write_tables(study)
    return pd.read_csv(study.results / "tables" / "comparison.csv")
