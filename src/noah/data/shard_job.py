"""One shard of a job: written, or found whole where an interrupted job left it."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from noah.config import Dataset
from noah.data.checks import CLUSTER, CLUSTERS, read_table
from noah.data.images import BadImage, prepare
from noah.data.layout import write_table
from noah.data.manifest import ShardEntry
from noah.data.quarantine import Bad, raw_path
from noah.data.tars import Member, TarWriter
from noah.files import read_mapping, reading, sha256_file, write_atomic, write_json

Read = Callable[[dict], tuple[str, bytes]]
"""A source's function from a row to (extension, encoded image)."""


@dataclass(frozen=True)
class Shard:
    """A shard that is whole, and what is known of it."""

    entry: dict
    """name, samples, bytes, sha256: as the manifest has it."""
    index: pa.Table
    """key, shard, offset, size, label (or labels) of each image, and cluster where the source index has it."""
    bad: list[Bad]


class Parts:
    """The folder where a job collects its shards until all are whole: what it holds outlives the job.

    Snakemake removes the outputs of a job before it starts it again, so they are put in place last.
    """

    def __init__(self, folder: Path, identity: dict):
        self.folder, self.identity = folder, identity

    def find(self, name: str) -> Shard | None:
        """The shard, if an earlier attempt made it from the same source index and dataset, and it is unharmed."""
        tar, note, rows = self._files(name)
        if not (tar.is_file() and note.is_file() and rows.is_file()):
            return None
        try:
            with reading(note):
                known = read_mapping(note)
                whole = known["identity"] == self.identity and known["entry"]["sha256"] == sha256_file(tar)
                if not whole or known["rows_sha256"] != sha256_file(rows):
                    return None
                entry = ShardEntry(**known["entry"]).model_dump()
                return Shard(entry, _as_written(read_table(rows)), [Bad(*bad) for bad in known["bad"]])
        except ValueError:  # a note that says nothing
            return None

    def keep(self, shard: Shard) -> None:
        """Note that a shard is whole; the tar lies in the folder already."""
        _, note, rows = self._files(shard.entry["name"])
        write_table(shard.index, rows)
        known = {"identity": self.identity, "entry": shard.entry, "rows_sha256": sha256_file(rows), "bad": shard.bad}
        write_json(note, known)

    def move(self, name: str, target: Path) -> None:
        os.replace(self.folder / name, target)

    def remove(self) -> None:
        """Also what an attempt left that was killed while it wrote."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _files(self, name: str) -> tuple[Path, Path, Path]:
        return self.folder / name, self.folder / f"{name}.json", self.folder / f"{name}.parquet"


def write_shard(dataset: Dataset, shard: int, path: Path, rows: list[dict], read: Read) -> Shard:
    """Write the tar of source index `rows`. The bytes depend on nothing else, and `path` never holds half a tar.

    Raises:
        ValueError: A label is out of range, or the source says that its raw data is not what was indexed.
    """
    columns, images, members, bad = _copied(dataset, rows), [], [], []
    with write_atomic(path) as temporary, open(temporary, "wb") as file:
        tar = TarWriter(file)
        for row in rows:
            try:
                field, data = checked_image(dataset, row, read)
            except BadImage as error:
                bad.append(Bad(raw_path(row), error.reason, row["key"]))
                continue
            members.append(tar.write(row["key"], row["labels" if dataset.multi_label else "label"], field, data))
            images.append(row)
        sha256 = tar.close()
    entry = {"name": path.name, "samples": len(images), "bytes": tar.bytes, "sha256": sha256}
    return Shard(entry, _index(columns, shard, images, members), bad)


def link_shard(dataset: Dataset, shard: int, path: Path, rows: list[dict], read: Read) -> Shard:
    """A link to a tar in place, all of whose images were decoded.

    Raises:
        ValueError: As `write_shard`.
    """
    columns, images, bad = _copied(dataset, rows), [], []
    for row in rows:
        try:
            checked_image(dataset, row, read)
            images.append(row)
        except BadImage as error:
            bad.append(Bad(raw_path(row), error.reason, row["key"]))
    target = (dataset.root_path / rows[0]["container"]).resolve()
    with open(target, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    link = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    os.replace(link, path)
    members = [Member(row["key"], "", row["offset"], row["size"]) for row in images]
    entry = {"name": path.name, "samples": len(images), "bytes": target.stat().st_size, "sha256": sha256}
    return Shard(entry, _index(columns, shard, images, members), bad)


def checked_image(dataset: Dataset, row: dict, read: Read) -> tuple[str, bytes]:
    """What a shard holds of a row: (jpg, png or webp; bytes), decoded once.

    Raises:
        BadImage: It does not decode, or has no label.
        ValueError: A label is no class.
    """
    where = f"{dataset.root_path / row['container']}: offset {row['offset']}, key {row['key']}"
    label = row["labels" if dataset.multi_label else "label"]
    if label is None:
        raise BadImage(where, "has no label")
    for one in label if dataset.multi_label else [label]:
        if not 0 <= one < dataset.num_classes:
            raise ValueError(f"{where}: label is {one}, expected 0 to {dataset.num_classes - 1}")
    _, data = read(row)
    return prepare(data, where, dataset.reencode)


def _as_written(table: pa.Table) -> pa.Table:
    """Parquet renames the items of lists, which would show in the bytes of the next file."""
    kinds = [(field.name, field.type) for field in table.schema]
    return table.cast(pa.schema([(name, pa.list_(k.value_type) if pa.types.is_list(k) else k) for name, k in kinds]))


def _copied(dataset: Dataset, rows: list[dict]) -> dict[str, pa.DataType]:
    """Columns that the index takes from the source index. Of all rows: a shard of bad images has the same columns."""
    columns = {"labels": pa.list_(pa.int32())} if dataset.multi_label else {"label": pa.int32()}
    return {**columns, CLUSTER: CLUSTERS} if rows and CLUSTER in rows[0] else columns


def _index(columns: dict[str, pa.DataType], shard: int, rows: list[dict], members: list[Member]) -> pa.Table:
    return pa.table(
        {
            "key": pa.array([row["key"] for row in rows], pa.string()),
            "shard": pa.array([shard] * len(rows), pa.int32()),
            "offset": pa.array([member.offset for member in members], pa.int64()),
            "size": pa.array([member.size for member in members], pa.int64()),
            **{name: pa.array([row[name] for row in rows], kind) for name, kind in columns.items()},
        }
    )
