"""Writing the shards of a split: index, jobs, manifest; and verifying them.

Shard k is a pure function of (source index, dataset YAML, k), never of jobs or workers: any job can be repeated
anywhere at any time and gives the same bytes. A job's .json is written last and says that the job's shards are whole.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.checks import expect, expect_file, expect_rows, read_table
from noah.data.manifest import read_manifest
from noah.data.sources import SOURCES
from noah.data.tars import index_tar, write_tar
from noah.files import read_json, sha256_file, write_atomic, write_json, write_text

SOURCE, INDEX, MANIFEST = "source.parquet", "index.parquet", "manifest.json"


def index_split(dataset: Dataset, split: SplitName, out_dir: Path) -> Path:
    """Write source.parquet: key, container, offset, size, label of every sample in the order of the shards.

    source.sha256 beside it is its small key, as `sha256sum --check` reads it: what comes after depends on the key, for
    Snakemake compares large files by their times alone.

    Raises:
        ValueError: The split is unknown, empty or smaller than its number of shards, or its raw data is wrong.
    """
    dataset.check_split(split)
    table = SOURCES[dataset.source].index(dataset, split)
    if table.num_rows == 0:
        raise ValueError(f"dataset {dataset.name}: split {split} is empty, expected at least one image")
    shards = dataset.splits[split].num_shards
    if table.num_rows < shards:
        raise ValueError(
            f"dataset {dataset.name}: splits.{split}.num_shards is {shards}, expected at most the "
            f"{table.num_rows} samples of the split"
        )
    path = _write_table(table, Path(out_dir) / SOURCE)
    write_text(path.with_suffix(".sha256"), f"{sha256_file(path)}  {SOURCE}\n")
    return path


def write_job(dataset: Dataset, split: SplitName, job: int, out_dir: Path) -> list[Path]:
    """Write the tars of one job, then jobs/{job}.parquet (key, shard, offset, size, label) and jobs/{job}.json.

    Returns:
        Paths of the tars.

    Raises:
        ValueError: No source index, no such job, an image that does not decode, or a label out of range.
    """
    dataset.check_split(split)
    out_dir, shards = Path(out_dir), dataset.job_shards(split, job)
    source = read_table(out_dir / SOURCE)
    read = SOURCES[dataset.source].open_source(dataset, split)
    rows_file, done_file = _job_files(out_dir, job)
    done_file.unlink(missing_ok=True)
    entries, tables = [], []
    for shard in shards:
        path = out_dir / dataset.shard_name(split, shard)
        for leftover in out_dir.glob(f".{path.name}.*.tmp"):  # of a job that was killed
            leftover.unlink(missing_ok=True)
        rows = _shard_rows(source, dataset.splits[split].num_shards, shard)
        write_tar(path, rows, read, dataset.num_classes)
        tables.append(index_tar(path, rows, shard))
        size, sha256 = path.stat().st_size, sha256_file(path)
        entries.append({"name": path.name, "samples": len(rows), "bytes": size, "sha256": sha256})
    _write_table(pa.concat_tables(tables), rows_file)
    write_json(done_file, {"job": job, "source_sha256": sha256_file(out_dir / SOURCE), "shards": entries})
    return [out_dir / entry["name"] for entry in entries]


def write_manifest(dataset: Dataset, split: SplitName, out_dir: Path) -> Path:
    """Merge all jobs into index.parquet and manifest.json; neither holds a time or depends on the number of jobs.

    Raises:
        ValueError: A job or tar is missing, or a job was made from another source index or another `shards_per_job`.
    """
    dataset.check_split(split)
    out_dir = Path(out_dir)
    source = read_table(out_dir / SOURCE)
    source_sha256 = sha256_file(out_dir / SOURCE)
    entries, tables = [], []
    for job in range(dataset.num_jobs(split)):
        rows_file, done_file = _job_files(out_dir, job)
        if not done_file.exists():
            raise ValueError(f"{done_file}: no such file: shard job {job} of {dataset.name} {split} is not finished")
        done = read_json(done_file)
        names = [dataset.shard_name(split, shard) for shard in dataset.job_shards(split, job)]
        expect(done_file, f"shards of job {job}, to be run again", [entry["name"] for entry in done["shards"]], names)
        expect(done_file, f"{SOURCE} of job {job}, to be run again", done["source_sha256"], source_sha256)
        for entry in done["shards"]:
            expect_file(out_dir / entry["name"], size=entry["bytes"])
        entries += done["shards"]
        tables.append(read_table(rows_file))
    index = pa.concat_tables(tables).combine_chunks()  # row groups as if one job had written it
    counts = np.bincount(source["label"].to_numpy(), minlength=dataset.num_classes)
    manifest = {
        "dataset": dataset.name,
        "split": split,
        "samples": source.num_rows,
        "classes": {name: int(count) for name, count in zip(dataset.classes, counts, strict=True)},
        "quarantine_share": 0.0,
        "source_sha256": source_sha256,
        "index_sha256": sha256_file(_write_table(index, out_dir / INDEX)),
        "shards": entries,
    }
    write_json(out_dir / MANIFEST, manifest)
    return out_dir / MANIFEST


def verify(dataset: Dataset, split: SplitName, out_dir: Path) -> dict:
    """Compare names, counts, sizes, sha256, keys, labels and offsets of everything in a split's folder.

    Returns:
        {"dataset", "split", "samples", "shards", "bytes"}.

    Raises:
        ValueError: Names the first thing that is wrong.
    """
    dataset.check_split(split)
    out_dir = Path(out_dir)
    path, manifest = out_dir / MANIFEST, read_manifest(out_dir / MANIFEST)
    entries = manifest["shards"]
    names = [dataset.shard_name(split, shard) for shard in range(dataset.splits[split].num_shards)]
    expect(path, "dataset", manifest["dataset"], dataset.name)
    expect(path, "split", manifest["split"], split)
    expect(path, "classes", list(manifest["classes"]), list(dataset.classes))
    expect(path, "shards", [entry["name"] for entry in entries], names)
    for tar in sorted(out_dir.glob("*.tar")):
        if tar.name not in names:
            raise ValueError(f"{tar}: not a shard of {MANIFEST}, expected {names[0]} to {names[-1]} only")
    expect_file(out_dir / SOURCE, sha256=manifest["source_sha256"])
    expect_file(out_dir / INDEX, sha256=manifest["index_sha256"])

    source, index = read_table(out_dir / SOURCE), read_table(out_dir / INDEX)
    expect(path, "samples", manifest["samples"], source.num_rows)
    expect_rows(out_dir / INDEX, index, source.select(["key", "label"]))
    expect(out_dir / SOURCE, "distinct keys", len(pc.unique(source["key"])), source.num_rows)
    labels = source["label"].to_numpy()
    wrong = labels[(labels < 0) | (labels >= dataset.num_classes)].tolist()
    expect(out_dir / SOURCE, f"labels outside 0 to {dataset.num_classes - 1}", wrong, [])
    counts = np.bincount(labels, minlength=dataset.num_classes).tolist()
    expect(path, "images per class", list(manifest["classes"].values()), counts)

    for shard, entry in enumerate(entries):
        tar = out_dir / entry["name"]
        rows = _shard_rows(source, len(entries), shard)
        expect(path, f"samples of {tar.name}", entry["samples"], len(rows))
        expect_file(tar, size=entry["bytes"], sha256=entry["sha256"])
        expect_rows(out_dir / INDEX, index.filter(pc.equal(index["shard"], shard)), index_tar(tar, rows, shard))
    return {
        "dataset": dataset.name,
        "split": split,
        "samples": manifest["samples"],
        "shards": len(entries),
        "bytes": sum(entry["bytes"] for entry in entries),
    }


def _shard_rows(source: pa.Table, num_shards: int, shard: int) -> list[dict]:
    """Shards are consecutive slices of the source index, whose lengths differ by one at most."""
    first, end = (source.num_rows * k // num_shards for k in (shard, shard + 1))
    return source.slice(first, end - first).to_pylist()


def _job_files(out_dir: Path, job: int) -> tuple[Path, Path]:
    return out_dir / "jobs" / f"{job:05d}.parquet", out_dir / "jobs" / f"{job:05d}.json"


def _write_table(table: pa.Table, path: Path) -> Path:
    with write_atomic(path) as temporary:
        pq.write_table(table, temporary)
    return path
