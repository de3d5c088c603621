"""Writing the shards of a split: index, jobs, manifest.

Shard k is a pure function of (source index, dataset YAML, k), never of jobs or workers: any job can be repeated
anywhere at any time and gives the same bytes. A job's .json is written last and says that the job's shards are whole.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from noah.config import Dataset
from noah.config.dataset import COMPOSED, SplitName
from noah.data.checks import expect, expect_columns, expect_file, read_table
from noah.data.layout import (
    INDEX,
    MANIFEST,
    QUARANTINE,
    SHARD_BYTES,
    SOURCE,
    class_counts,
    identity,
    is_in_place,
    job_file,
    read_source,
    shard_bounds,
    suggested_shards,
    write_table,
)
from noah.data.manifest import read_note
from noah.data.quarantine import check_share, read_bad, write_bad
from noah.data.shard_job import Parts, link_shard, write_shard
from noah.data.sources import SOURCES
from noah.files import reading, sha256_file, write_json, write_text


def index_split(dataset: Dataset, split: SplitName, out_dir: Path) -> Path:
    """Write source.parquet: key, container, offset, size, label of every sample in the order of the shards.

    source.sha256 beside it is its small key, as `sha256sum --check` reads it: what comes after depends on the key, for
    Snakemake compares large files by their times alone.

    Raises:
        ValueError: The split is unknown, empty or smaller than its number of shards, or its raw data is wrong.
    """
    dataset.check_split(split)
    if is_in_place(dataset) and dataset.reencode:
        raise ValueError(
            f"dataset {dataset.name}: reencode is given, expected none: source {dataset.source} is read in place"
        )
    table = SOURCES[dataset.source].index(dataset, split)
    if table.num_rows == 0:
        raise ValueError(f"dataset {dataset.name}: split {split} is empty, expected at least one image")
    shards = dataset.splits[split].num_shards
    if table.num_rows < shards:
        raise ValueError(
            f"dataset {dataset.name}: splits.{split}.num_shards is {shards}, expected at most the "
            f"{table.num_rows} samples of the split"
        )
    shard_bounds(dataset, split, table)
    path = write_table(table, Path(out_dir) / SOURCE)
    write_text(path.with_suffix(".sha256"), f"{sha256_file(path)}  {SOURCE}\n")
    return path


def shards_hint(dataset: Dataset, split: SplitName, out_dir: Path) -> str | None:
    """What to say of a split whose shards will be far from 256 MiB; None where there is no index, or nothing to say."""
    path = Path(out_dir) / SOURCE
    if dataset.source in COMPOSED or is_in_place(dataset) or not path.is_file():
        return None
    sizes = read_table(path, columns=["size"])
    expect_columns(path, sizes, {"size": pa.int64()})
    total = pc.sum(sizes["size"]).as_py() or 0
    shards, suggested = dataset.splits[split].num_shards, suggested_shards(total)
    if shards == suggested or SHARD_BYTES / 4 <= total / shards <= SHARD_BYTES * 4:
        return None
    before = ", before they are encoded again" if dataset.reencode else ""
    return (
        f"{dataset.name} {split}: {total / 2**20:,.0f} MiB of images in {shards} shards{before}: "
        f"num_shards: {suggested} comes closest to 256 MiB for each"
    )


def write_job(dataset: Dataset, split: SplitName, job: int, out_dir: Path) -> list[Path]:
    """Write the tars of one job, then jobs/{job}.bad.csv (images left out), .parquet (rows of the index) and .json.

    An attempt that was interrupted is continued at its first shard that is not whole; a job that is whole is left
    alone. Either gives the same bytes as one attempt from the beginning.

    Returns:
        Paths of the tars.

    Raises:
        ValueError: No source index, no such job, a label out of range, or raw data that is not what was indexed.
    """
    dataset.check_split(split)
    out_dir, numbers = Path(out_dir), dataset.job_shards(split, job)
    source = read_source(dataset, out_dir / SOURCE)
    known = identity(dataset, split, sha256_file(out_dir / SOURCE))
    tars = [out_dir / dataset.shard_name(split, shard) for shard in numbers]
    done_file = job_file(out_dir, job, "json")
    parts = Parts(job_file(out_dir, job, "parts"), known)
    if _is_done(out_dir, job, known, tars):
        parts.remove()  # of an attempt that was stopped when all was there
        return tars
    done_file.unlink(missing_ok=True)
    bounds, read = shard_bounds(dataset, split, source), SOURCES[dataset.source].open_source(dataset, split)
    write = link_shard if is_in_place(dataset) else write_shard
    shards = []
    for number, path in zip(numbers, tars, strict=True):
        shard = parts.find(path.name)
        if shard is None:
            rows = source.slice(bounds[number], bounds[number + 1] - bounds[number]).to_pylist()
            with reading(out_dir / SOURCE):
                shard = write(dataset, number, parts.folder / path.name, rows, read)
            parts.keep(shard)
        shards.append(shard)
    for path in tars:
        parts.move(path.name, path)
    write_bad(job_file(out_dir, job, "bad.csv"), [bad for shard in shards for bad in shard.bad])
    write_table(pa.concat_tables([shard.index for shard in shards]), job_file(out_dir, job, "parquet"))
    sums = {f"{kind}_sha256": sha256_file(job_file(out_dir, job, ending)) for kind, ending in _TABLES.items()}
    write_json(done_file, {"job": job, **known, **sums, "shards": [shard.entry for shard in shards]})
    parts.remove()
    return tars


_TABLES = {"rows": "parquet", "bad": "bad.csv"}
"""What a job notes beside its tars; its .json holds their sha256."""


def _is_done(out_dir: Path, job: int, known: dict, tars: list[Path]) -> bool:
    """Whether the job's .json speaks of this index and dataset, and all that it names is there, unharmed."""
    path = job_file(out_dir, job, "json")
    if not path.is_file():
        return False
    try:
        done = read_note(path)
    except ValueError:  # it says nothing
        return False
    files = {job_file(out_dir, job, ending): done.get(f"{kind}_sha256") for kind, ending in _TABLES.items()}
    files |= {out_dir / entry["name"]: entry["sha256"] for entry in done["shards"]}
    same = {name: done.get(name) for name in known} == known and set(tars) <= set(files) and len(files) == len(tars) + 2
    return same and all(file.is_file() and sha256_file(file) == sha256 for file, sha256 in files.items())


def write_manifest(dataset: Dataset, split: SplitName, out_dir: Path) -> Path:
    """Merge all jobs into index.parquet, quarantine.csv and manifest.json; none holds a time or the number of jobs.

    Raises:
        ValueError: A job or tar is missing, a job was made from another source index or another `shards_per_job`, or
            more images are bad than `allow_bad` says; quarantine.csv lists them all by then.
    """
    dataset.check_split(split)
    out_dir = Path(out_dir)
    source = read_source(dataset, out_dir / SOURCE)
    source_sha256 = sha256_file(out_dir / SOURCE)
    entries, tables, bad = [], [], []
    for job in range(dataset.num_jobs(split)):
        done_file = job_file(out_dir, job, "json")
        if not done_file.exists():
            raise ValueError(f"{done_file}: no such file: shard job {job} of {dataset.name} {split} is not finished")
        done = read_note(done_file)
        names = [dataset.shard_name(split, shard) for shard in dataset.job_shards(split, job)]
        expect(done_file, f"shards of job {job}, to be run again", [entry["name"] for entry in done["shards"]], names)
        expect(done_file, f"{SOURCE} of job {job}, to be run again", done["source_sha256"], source_sha256)
        for entry in done["shards"]:
            expect_file(out_dir / entry["name"], size=entry["bytes"])
        for kind, ending in _TABLES.items():
            expect_file(job_file(out_dir, job, ending), sha256=done.get(f"{kind}_sha256"))
        entries += done["shards"]
        tables.append(read_table(job_file(out_dir, job, "parquet")))
        bad += read_bad(job_file(out_dir, job, "bad.csv"))
    write_bad(out_dir / QUARANTINE, bad)
    share = check_share(dataset, split, bad, source.num_rows, out_dir / QUARANTINE)
    index = pa.concat_tables(tables).combine_chunks()  # row groups as if one job had written it
    manifest = {
        "dataset": dataset.name,
        "split": split,
        "samples": index.num_rows,
        "classes": dict(zip(dataset.classes, class_counts(dataset, index), strict=True)),
        "quarantine_share": share,
        "source_sha256": source_sha256,
        "index_sha256": sha256_file(write_table(index, out_dir / INDEX)),
        "shards": entries,
    }
    write_json(out_dir / MANIFEST, manifest)
    return out_dir / MANIFEST
