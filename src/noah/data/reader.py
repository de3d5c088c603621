"""Reading shards by number: an index over the tars, and the order of an epoch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noah.data.checks import expect, expect_clusters, expect_columns, expect_file, read_table
from noah.data.images import decode_tensor
from noah.data.manifest import read_manifest
from noah.data.open_files import OpenFiles
from noah.files import read_mapping, sha256_file, write_json

MANIFEST, INDEX = "manifest.json", "index.parquet"
SMALL_BYTES, KEPT_BYTES = 16 << 20, 256 << 20
"""A split of so many encoded bytes is small, and keeps its decoded images while they are no more than so many."""
ORDER, AUGMENTATION = 1, 2
"""What a stream of random numbers is for: the first word of its seed, so that no two streams are ever the same."""


class Shards:
    """The samples of one split, numbered 0 to S-1 in index order. Picklable, and safe to use after a fork.

    Attributes:
        manifest: manifest.json, which counts classes and lists shards.
        manifest_sha256: Names the data: the manifest holds the sha256 of the index and of every tar.
        keys: str (S,), the digits of a number; numbers may be left out.
        labels: int64 (S,), or uint8 (S, M) of zeros and ones where an image has any number of the M classes.
        shard_of: int64 (S,), the number of the tar that holds each sample.
        clusters: pyarrow list of string (S,), at least one name of what each sample shares with others (a digit, a
            patient); None where the index does not say.
    """

    def __init__(self, folder: Path, fetch: Callable[[str, str], None] | None = None):
        """Load manifest and index.

        Args:
            folder: Holds manifest.json, index.parquet and the tars.
            fetch: Puts the file of that name and sha256 in the folder unless it is there: for shards that come from
                elsewhere, each when its first sample is read. Default: all must be there.

        Raises:
            ValueError: A file is missing, has another size than the manifest says, or the index is not the manifest's.
        """
        self.folder, self._fetch = Path(folder), fetch
        manifest, index = self.folder / MANIFEST, self.folder / INDEX
        self.manifest = read_manifest(manifest)
        self.manifest_sha256 = sha256_file(manifest)
        if fetch:
            fetch(INDEX, self.manifest["index_sha256"])
        for shard in self.manifest["shards"]:
            path = self.folder / shard["name"]
            if not path.is_file():
                if fetch:
                    continue
                make = f"noah shard {self.manifest['dataset']} {self.manifest['split']}"
                raise ValueError(f"{path}: no such file, expected a shard of {manifest}; `{make}` makes it again")
            expect_file(path, size=shard["bytes"])
        expect_file(index, sha256=self.manifest["index_sha256"])
        table = _checked(index, read_table(index), self.manifest)
        self.keys = table["key"].to_numpy().astype(str)
        self.labels = _labels(table, len(self.manifest["classes"]))
        self.clusters = expect_clusters(index, table)
        self.shard_of = table["shard"].to_numpy().astype(np.int64)
        self._offsets, self._sizes = table["offset"].to_numpy(), table["size"].to_numpy()
        self._files = OpenFiles()
        self._kept: dict[int, Any] | None = {} if self._sizes.sum() <= SMALL_BYTES else None
        self._kept_bytes = 0
        self.sharing = 1
        """Processes that each keep images of their own, and share the memory for it."""
        expect(manifest, "samples", self.manifest["samples"], len(self))

    def check_tars(self, remembered: Path) -> None:
        """Compare the sha256 of every tar that is here with the manifest's, once per file.

        Those that `fetch` has still to bring are compared then.

        Args:
            remembered: A JSON file that need not exist, one for all splits: notes size and time of what was compared.

        Raises:
            ValueError: Names the first tar that was altered.
        """
        known = read_mapping(remembered) if remembered.is_file() else {}
        checked = {}
        for shard in self.manifest["shards"]:
            path = (self.folder / shard["name"]).resolve()
            if self._fetch and not path.is_file():
                continue
            status = path.stat()
            seen = [shard["sha256"], status.st_size, status.st_mtime_ns]
            if known.get(str(path)) != seen:
                expect_file(path, sha256=shard["sha256"])
                checked[str(path)] = seen
        if checked:
            write_json(remembered, {**known, **checked})

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """The encoded image of sample i.

        Raises:
            ValueError: The tar ends early.
        """
        descriptor = self._files.descriptor(int(self.shard_of[i]), self._tar)
        # A read at a position leaves the shared file offset alone, so forked workers may use one descriptor.
        data = os.pread(descriptor, int(self._sizes[i]), int(self._offsets[i]))
        if len(data) != self._sizes[i]:
            raise ValueError(f"{self.where(i)}: got {len(data)} bytes, expected {self._sizes[i]}")
        return data

    def pixels(self, i: int):
        """Sample i decoded: a uint8 tensor (3, height, width) that nobody may change.

        Small splits keep what they decoded: a PNG of 32 pixels takes longer to decode than to augment.

        Raises:
            ValueError: As `read`.
            BadImage: As `decode_tensor`.
        """
        if self._kept is not None and i in self._kept:
            return self._kept[i]
        image = decode_tensor(self.read(i), self.where(i))
        if self._kept is not None:
            self._kept_bytes += image.nbytes
            self._kept[i] = image
            if self._kept_bytes > KEPT_BYTES // self.sharing:
                self._kept = None
        return image

    def where(self, i: int) -> str:
        """Names sample i in messages: file, offset, key."""
        path = self.folder / self.manifest["shards"][self.shard_of[i]]["name"]
        return f"{path}: offset {self._offsets[i]}, key {self.keys[i]}"

    def _tar(self, shard: int) -> Path:
        entry = self.manifest["shards"][shard]
        if self._fetch:
            self._fetch(entry["name"], entry["sha256"])
        return self.folder / entry["name"]


def _checked(path: Path, table: pa.Table, manifest: dict) -> pa.Table:
    """ValueError for rows that lead nowhere: nobody vouches for the index behind a URL but its manifest."""
    label, kind = ("labels", pa.list_(pa.int32())) if "labels" in table.column_names else ("label", pa.int32())
    types = {"key": pa.string(), "shard": pa.int32(), "offset": pa.int64(), "size": pa.int64(), label: kind}
    expect_columns(path, table, types)
    classes, shards = len(manifest["classes"]), manifest["shards"]
    values = pc.list_flatten(table[label]) if label == "labels" else table[label]
    for name, column, end in (("shard", table["shard"], len(shards)), (label, values, classes)):
        wrong = column.filter(pc.or_(pc.less(column, 0), pc.greater_equal(column, end)))
        if len(wrong):
            raise ValueError(f"{path}: {name} is {wrong[0]}, expected 0 to {end - 1}")
    sizes = np.array([min(shard["bytes"], 2**62) for shard in shards])[table["shard"].to_numpy()]
    offset, size = table["offset"].to_numpy(), table["size"].to_numpy()
    wrong = np.flatnonzero((offset < 0) | (size < 0) | (size > sizes) | (offset > sizes - size))
    if len(wrong):
        row = wrong[0]
        raise ValueError(f"{path}: row {row}: offset {offset[row]}, size {size[row]}: not inside its tar")
    strange = table["key"].filter(pc.invert(pc.match_substring_regex(table["key"], r"\A[0-9]{1,18}\z")))
    if len(strange):
        raise ValueError(f"{path}: key is {strange[0].as_py()!r}, expected the digits of a number")
    return table


def _labels(table: pa.Table, num_classes: int) -> np.ndarray:
    if "label" in table.column_names:
        return table["label"].to_numpy().astype(np.int64)
    column = table["labels"].combine_chunks()
    labels = np.zeros((len(column), num_classes), np.uint8)
    labels[column.value_parent_indices().to_numpy(), column.flatten().to_numpy()] = 1
    return labels


def epoch_order(shard_of: np.ndarray, seed: int, epoch: int, window: int = 16) -> np.ndarray:
    """A permutation of all samples, pure in (seed, epoch, shard layout).

    Shards are shuffled, then samples inside windows of `window` shards: random enough to train on, while only that
    many tars are in use at a time, for the page cache or a download. Reads inside a window are in random order.

    Args:
        shard_of: int64 (S,), shard of each sample.

    Returns:
        int64 (S,), numbers of samples.
    """
    rng = np.random.default_rng([ORDER, seed, epoch])
    by_shard = np.argsort(shard_of, kind="stable")
    _, firsts = np.unique(shard_of[by_shard], return_index=True)
    shards = np.split(by_shard, firsts[1:])
    order = rng.permutation(len(shards))
    windows = [order[first : first + window] for first in range(0, len(order), window)]
    return np.concatenate([rng.permutation(np.concatenate([shards[shard] for shard in chosen])) for chosen in windows])
