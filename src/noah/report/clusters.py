"""What the images of a test split share: digits, patients, videos, … as prediction records name them."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from noah.files import read_parquet

CLUSTER, KINDS = "cluster", {"key": pa.string(), "cluster": pa.list_(pa.string())}


def read_clusters(path: Path) -> pd.Series | None:
    """The names of the clusters of each image, a tuple of at least one, by its key.

    Args:
        path: A predictions.parquet.

    Returns:
        A series of tuples of texts, index `key`, in the order of the records; None where they have no column cluster.

    Raises:
        ValueError: Names the file: it is missing, holds something else, or the column has another type or no name.
    """
    table = _read(path)
    if table is None:
        return None
    for name, kind in KINDS.items():
        _expect(path, f"columns '{name}'", table.column_names.count(name), 1)
        if table[name].type != kind:  # lists name their items in several ways, which are equal
            _expect(path, f"type of column '{name}'", str(table[name].type), str(kind))
    keys, clusters = table["key"].to_pylist(), table[CLUSTER].to_pylist()
    for key, cluster in zip(keys, clusters, strict=True):
        if not cluster or not all(cluster):
            raise ValueError(f"{path}: cluster of key '{key}' is {cluster!r}, expected at least one name")
    return pd.Series(list(map(tuple, clusters)), pd.Index(keys, name="key"), object, name=CLUSTER)


def _read(path: Path) -> pa.Table | None:
    """The columns key and cluster; None where there is no cluster."""
    try:
        names = pq.read_schema(path).names
        return read_parquet(path, [name for name in KINDS if name in names]) if CLUSTER in names else None
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of what it holds
            raise
        raise ValueError(f"{path}: not prediction records: {' '.join(str(error).split())[:300]}") from None


def _expect(path: Path, what: str, found: int | str, expected: int | str) -> None:
    if found != expected:
        raise ValueError(f"{path}: {what}: got {found!r}, expected {expected!r}")
