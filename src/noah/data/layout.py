"""A split's folder: the names of its files, its source index, and which rows of it make which shard."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.checks import expect_clusters, expect_columns, read_table
from noah.data.sources import SOURCES
from noah.files import write_atomic

SOURCE, INDEX, MANIFEST, QUARANTINE = "source.parquet", "index.parquet", "manifest.json", "quarantine.csv"
SHARD_BYTES = 256 << 20
"""What a shard should have, roughly: enough that there are few files, little enough to be made again or copied."""


def is_in_place(dataset: Dataset) -> bool:
    """Whether the source's own tars are the shards, as they are."""
    return getattr(SOURCES[dataset.source], "in_place", False)


def shard_bounds(dataset: Dataset, split: SplitName, source: pa.Table) -> np.ndarray:
    """First row of each shard in the source index, and the number of all rows: int64 (num_shards + 1,).

    Shards are consecutive slices whose lengths differ by one at most; of tars in place, one per tar.

    Raises:
        ValueError: There are other tars in place than `num_shards`.
    """
    shards = dataset.splits[split].num_shards
    if not is_in_place(dataset):
        return np.arange(shards + 1) * source.num_rows // shards
    containers = source["container"].combine_chunks()
    changes = pc.not_equal(containers.slice(1), containers.slice(0, max(0, len(containers) - 1)))
    firsts = np.flatnonzero(np.concatenate([[len(containers) > 0], changes.to_numpy(zero_copy_only=False)]))
    tars = len(pc.unique(containers))
    assert len(firsts) == tars, "rows of a tar in place lie together"
    if tars != shards:
        raise ValueError(
            f"dataset {dataset.name}: splits.{split}.num_shards is {shards}, expected {tars}: one for each tar in "
            "place that has an image"
        )
    return np.append(firsts, len(containers))


def suggested_shards(total_bytes: int) -> int:
    """How many shards of 256 MiB hold that many bytes."""
    return max(1, round(total_bytes / SHARD_BYTES))


def identity(dataset: Dataset, split: SplitName, source_sha256: str) -> dict:
    """What decides the bytes of a split's shards; those of another identity are made again."""
    spec = f"{split} {dataset.model_dump_json(exclude={'root', 'allow_bad', 'shards_per_job'})}"
    return {"source_sha256": source_sha256, "spec_sha256": hashlib.sha256(spec.encode()).hexdigest()}


def job_file(out_dir: Path, job: int, ending: str) -> Path:
    """jobs/{job}.parquet, .json or .bad.csv; or the folder jobs/{job}.parts of a job that is not finished."""
    return out_dir / "jobs" / f"{job:05d}.{ending}"


def write_table(table: pa.Table, path: Path) -> Path:
    with write_atomic(path) as temporary:
        pq.write_table(table, temporary)
    return path


def read_source(dataset: Dataset, path: Path) -> pa.Table:
    """A source index, its columns checked; a row without a label is a bad image."""
    table = read_table(path)
    label, kind = ("labels", pa.list_(pa.int32())) if dataset.multi_label else ("label", pa.int32())
    types = {"key": pa.string(), "container": pa.string(), "offset": pa.int64(), "size": pa.int64(), label: kind}
    expect_columns(path, table, types, nullable=(label,))
    expect_clusters(path, table)
    if table.num_rows == 0:
        raise ValueError(f"{path}: has no rows, expected at least one image")
    return table


def label_values(index: pa.Table) -> np.ndarray:
    """All labels of all images, one after the other."""
    column = pc.list_flatten(index["labels"]) if "labels" in index.column_names else index["label"]
    return column.to_numpy()


def class_counts(dataset: Dataset, index: pa.Table) -> list[int]:
    """Images per class."""
    return np.bincount(label_values(index), minlength=dataset.num_classes).tolist()
