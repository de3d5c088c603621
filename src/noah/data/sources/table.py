"""A CSV or Parquet table of the user's images: columns `path`, and `label` or `labels`; optionally `split`, `cluster`.

Roles of `raw`: `table`; optionally `images`, the folder, tar or zip in which the paths lie (default: the root itself);
and `rows`, which value of the column `split` marks this split's rows (default: the split's own name).
"""

from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import csv

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.checks import CLUSTER, expect_file, read_table
from noah.data.containers import list_entries
from noah.data.order import source_index
from noah.data.raw import check_raw, raw_paths
from noah.data.sources.files import open_files as open_source
from noah.data.sources.labels import cluster_names, label_parser

__all__ = ["fetch", "index", "open_source"]

PATH, SPLIT = "path", "split"
NAMED = 3
"""Missing images that a message names before it only counts."""


def fetch(dataset: Dataset) -> list[Path]:
    """Nothing to get: the user's tables and images are there.

    Raises:
        ValueError: Lists those that are not, or differ from the dataset's `files`.
    """
    names = dict.fromkeys(name for split in dataset.splits for name in _roles(dataset, split)[:2] if name)
    check_raw(dataset, *names)
    return [dataset.root_path / name for name in names]


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """The images of the table's rows, by their paths, with their labels; a row without a label is quarantined.

    Where the table has a column `cluster`, every row of the split has at least one name in it.

    Raises:
        ValueError: A column is missing, a label is no class, a cluster is empty, or a path leads elsewhere, to nothing,
            or occurs twice.
    """
    name, images, _ = _roles(dataset, split)
    check_raw(dataset, name, *([images] if images else []))
    path = dataset.root_path / name
    column = "labels" if dataset.multi_label else "label"
    table = _read(path, column)
    rows = _rows_of(dataset, split, path, table)
    parse = label_parser(dataset)
    paths = table[PATH].to_pylist()
    labels = [parse(label, f"{path}: row {row + 1}: {column}") for row, label in _at(rows, table[column].to_pylist())]
    names = [_inner_path(value, f"{path}: row {row + 1}") for row, value in _at(rows, paths)]
    clusters = [None] * len(rows)
    if CLUSTER in table.column_names:
        written = _at(rows, table[CLUSTER].to_pylist())
        clusters = [cluster_names(value, f"{path}: row {row + 1}: {CLUSTER}") for row, value in written]
    entries = {entry.name: entry for entry in list_entries(dataset.root_path, images or ".")}
    missing = [f"row {row + 1} '{value}'" for row, value in zip(rows, names, strict=True) if value not in entries]
    if missing:
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        raise ValueError(
            f"{path}: no such file below {dataset.root_path / (images or '')}: {', '.join(missing[:NAMED])}{more}"
        )
    return source_index(dataset, split, zip((entries[value] for value in names), labels, clusters, strict=True))


def _roles(dataset: Dataset, split: SplitName) -> tuple[str, str | None, str | None]:
    return raw_paths(dataset, split, "table", optional=("images", "rows"))


def _read(path: Path, column: str) -> pa.Table:
    if path.suffix == ".csv":
        expect_file(path)
        # As text: a class called NA or 007 keeps its name.
        types = {name: pa.string() for name in (PATH, SPLIT, CLUSTER, column)}
        try:
            table = csv.read_csv(
                path,
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False),
            )
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not CSV in UTF-8: {error}") from None
    elif path.suffix == ".parquet":
        table = read_table(path)
    else:
        raise ValueError(f"{path}: got '{path.suffix}', expected a .csv or .parquet")
    for name in (PATH, column):
        if name not in table.column_names:
            raise ValueError(f"{path}: no column '{name}', got {', '.join(table.column_names)}")
    for name in (PATH, column, SPLIT, CLUSTER):
        if table.column_names.count(name) > 1:
            raise ValueError(f"{path}: column '{name}' is there twice")
    return table


def _rows_of(dataset: Dataset, split: SplitName, path: Path, table: pa.Table) -> list[int]:
    """Numbers of the rows that belong to the split, from 0."""
    split = dataset.raw_split(split)
    name, _, rows = _roles(dataset, split)
    if SPLIT not in table.column_names:
        if rows is not None:
            raise ValueError(f"{path}: no column '{SPLIT}', expected one: splits.{split}.raw.rows is '{rows}'")
        for other in dataset.splits:
            if dataset.raw_split(other) != split and _roles(dataset, other)[0] == name:
                raise ValueError(f"{path}: no column '{SPLIT}', expected one: it is the table of {split} and {other}")
        return list(range(table.num_rows))
    wanted, values = rows or split, table[SPLIT].to_pylist()
    found = [row for row, value in enumerate(values) if value == wanted]
    if not found:
        others = ", ".join(sorted(map(repr, set(values)))[:NAMED])
        raise ValueError(
            f"{path}: no row has split '{wanted}', got {others or 'no rows'}: splits.{split}.raw.rows names it"
        )
    return found


def _at(rows: list[int], values: list) -> list[tuple[int, object]]:
    return [(row, values[row]) for row in rows]


def _inner_path(value: object, where: str) -> str:
    path = PurePosixPath(value) if isinstance(value, str) and value else None
    if path is None or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where}: path is {value!r}, expected a file below the root")
    return path.as_posix()
