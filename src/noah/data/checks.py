"""Comparing what lies on disk with what should: every difference is a ValueError that names the file and both sides."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noah.files import read_parquet, sha256_file

CLUSTER, CLUSTERS = "cluster", pa.list_(pa.string())
"""An optional column: what an image shares with others (a digit, a patient, a video), as at least one name."""


def expect(path: Path, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"{path}: {what}: got {found!r}, expected {expected!r}")


def expect_file(path: Path, *, size: int | None = None, sha256: str | None = None) -> None:
    """The file is there, and has that size in bytes and that hash where they are given."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if size is not None:
        expect(path, "bytes", path.stat().st_size, size)
    if sha256 is not None:
        expect(path, "sha256", sha256_file(path), sha256)


def expect_rows(path: Path, found: pa.Table, expected: pa.Table) -> None:
    """Both tables have the same rows; the first cell that differs is named. Columns are those of `expected`."""
    expect(path, "rows", found.num_rows, expected.num_rows)
    for column in expected.column_names:
        if column not in found.column_names:
            raise ValueError(f"{path}: no column '{column}'")
        if found[column].equals(expected[column]):
            continue
        for row, (one, other) in enumerate(zip(found[column].to_pylist(), expected[column].to_pylist(), strict=True)):
            expect(path, f"{column} of row {row}", one, other)


def expect_columns(path: Path, table: pa.Table, types: dict[str, pa.DataType], nullable: Collection[str] = ()) -> None:
    """The columns are there once, of these types, and without nulls unless `nullable` has them."""
    for name, kind in types.items():
        expect(path, f"columns '{name}'", table.column_names.count(name), 1)
        column = table[name]
        if column.type != kind:  # Parquet files name the items of a list in two ways; equality knows, the text does not
            expect(path, f"type of column '{name}'", str(column.type), str(kind))
        nulls = 0 if name in nullable else column.null_count
        if pa.types.is_list(kind):
            nulls += pc.list_flatten(column).null_count
        if nulls:
            raise ValueError(f"{path}: column '{name}': got a null, expected a value in every row")


def expect_clusters(path: Path, table: pa.Table) -> pa.Array | None:
    """The column `cluster`, list of string (S,), every row with a name; None where the table has none.

    Raises:
        ValueError: Another type, or names the first row without a name.
    """
    if CLUSTER not in table.column_names:
        return None
    expect(path, f"columns '{CLUSTER}'", table.column_names.count(CLUSTER), 1)
    column = table[CLUSTER].combine_chunks()
    if column.type != CLUSTERS:
        expect(path, f"type of column '{CLUSTER}'", str(column.type), str(CLUSTERS))
    names = column.flatten()
    nameless = pc.fill_null(pc.equal(names, ""), True).to_numpy(zero_copy_only=False)
    wrong = pc.equal(pc.fill_null(pc.list_value_length(column), 0), 0).to_numpy(zero_copy_only=False)
    wrong[column.value_parent_indices().to_numpy()[nameless]] = True
    if wrong.any():
        row = int(np.argmax(wrong))
        found = column[row].as_py()
        raise ValueError(f"{path}: row {row}: {CLUSTER} is {found!r}, expected a list of at least one name")
    return column


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """All columns, or some. ValueError names the file when it is missing or no Parquet."""
    expect_file(path)
    try:
        return read_parquet(path, columns)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of what it holds
            raise
        raise ValueError(f"{path}: not Parquet: {' '.join(str(error).split())}") from None
