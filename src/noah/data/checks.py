"""Comparing what lies on disk with what should: every difference is a ValueError that names the file and both sides."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noah.files import sha256_file


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


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """All columns, or some. ValueError names the file when it is missing or no Parquet."""
    expect_file(path)
    try:
        return pq.read_table(path, columns=columns)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not Parquet: {error}") from None
