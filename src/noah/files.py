"""Writing files so that a reader never sees half of one, and naming them by content."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What only writing can say."""


@contextmanager
def naming(path: Path | str, temporary: Path | str = "") -> Iterator[None]:
    """Trouble of a disk is that of `path`: many a library leaves the file out, or says only the temporary one."""
    try:
        yield
    except OSError as error:
        if temporary and str(temporary) in str(error):
            error.filename, error.strerror = str(path), os.strerror(error.errno) if error.errno else str(error)
        elif error.filename is None and error.errno in _NO_ROOM:
            error.filename = str(path)
        raise


@contextmanager
def write_atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is synced and renamed to `path`, else removed.

    Raises:
        OSError: The disk is full, the folder read-only, …; its `filename` is `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two machines that share a folder may have the same process ids.
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        with naming(path, temporary):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # of a folder that is read-only by now
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    with write_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, data: Any) -> None:
    """Indented and newline-terminated; NaN is refused, for JSON has none."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """ValueError names the file when it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def read_mapping(path: Path | str, *fields: str) -> dict:
    """A JSON object; ValueError also names the first of `fields` that it lacks."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: got {type(data).__name__}, expected a mapping")
    for field in fields:
        if field not in data:
            raise ValueError(f"{path}: missing key '{field}'")
    return data


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Where odd content of a file breaks the code that takes it apart: a ValueError that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: damaged, or not what noah writes: {type(error).__name__}: {said[:300]}") from error


def read_parquet(path: Path | str, columns: list[str] | None = None):
    """A pyarrow table whose texts are texts: what Parquet holds may be any bytes, which only break whoever reads them.

    Raises:
        FileNotFoundError, pyarrow.ArrowException, OSError: As pyarrow raises them.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=columns)
    table.validate(full=True)
    return table


def read_csv(path: Path | str, what: str, *, texts: Iterable[str] = (), numbers: Iterable[str] = ()):
    """The named columns of a CSV; a text may be any word ("null" is one), a number may be missing.

    Args:
        path: UTF-8.
        what: The table that is expected there, for messages.
        texts: Columns read as text.
        numbers: Columns read as float64.

    Raises:
        ValueError: It is missing, no CSV, lacks a column, or has a word where a number is expected.
    """
    import pandas as pd

    texts, numbers = [*texts], [*numbers]
    missing = {name: ["", "nan"] for name in numbers}
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=missing, dtype="string")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected {what}") from None
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path}: not {what}: {' '.join(str(error).split())[:300]}") from None
    absent = [name for name in (*texts, *numbers) if name not in table.columns]
    if absent:
        raise ValueError(f"{path}: missing column '{absent[0]}', expected {what}")
    for name in numbers:
        try:
            table[name] = table[name].astype("float64")
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not {what}: column '{name}': {' '.join(str(error).split())[:300]}") from None
    return table[[*texts, *numbers]]


def sha256_file(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
