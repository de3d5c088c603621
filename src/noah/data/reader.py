"""Reading shards by number: an index over the tars, and the order of an epoch."""

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from noah.data.checks import expect, expect_file, read_table
from noah.data.manifest import read_manifest
from noah.files import read_json, sha256_file, write_json

MANIFEST, INDEX = "manifest.json", "index.parquet"
OPEN_FILES = 64
"""Tars held open at once by one reader: four windows of shards, far below the usual limit of 1024."""
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
        table = read_table(index)
        self.keys = table["key"].to_numpy().astype(str)
        self.labels = _labels(table, len(self.manifest["classes"]))
        self.shard_of = table["shard"].to_numpy().astype(np.int64)
        self._offsets, self._sizes = table["offset"].to_numpy(), table["size"].to_numpy()
        self._files: OrderedDict[int, object] = OrderedDict()
        expect(manifest, "samples", self.manifest["samples"], len(self))

    def check_tars(self, remembered: Path) -> None:
        """Compare the sha256 of every tar that is here with the manifest's, once per file.

        Those that `fetch` has still to bring are compared then.

        Args:
            remembered: A JSON file that need not exist, one for all splits: notes size and time of what was compared.

        Raises:
            ValueError: Names the first tar that was altered.
        """
        known = read_json(remembered) if remembered.is_file() else {}
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
        file = self._file(int(self.shard_of[i]))
        # A read at a position leaves the shared file offset alone, so forked workers may use one descriptor.
        data = os.pread(file.fileno(), int(self._sizes[i]), int(self._offsets[i]))
        if len(data) != self._sizes[i]:
            raise ValueError(f"{self.where(i)}: got {len(data)} bytes, expected {self._sizes[i]}")
        return data

    def where(self, i: int) -> str:
        """Names sample i in messages: file, offset, key."""
        path = self.folder / self.manifest["shards"][self.shard_of[i]]["name"]
        return f"{path}: offset {self._offsets[i]}, key {self.keys[i]}"

    def _file(self, shard: int):
        if shard in self._files:
            self._files.move_to_end(shard)
        else:
            if len(self._files) == OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            entry = self.manifest["shards"][shard]
            if self._fetch:
                self._fetch(entry["name"], entry["sha256"])
            self._files[shard] = open(self.folder / entry["name"], "rb", buffering=0)  # noqa: SIM115
        return self._files[shard]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": OrderedDict()}


def _labels(table: pa.Table, num_classes: int) -> np.ndarray:
    if "label" in table.column_names:
        return table["label"].to_numpy().astype(np.int64)
    column = table["labels"].combine_chunks()
    labels = np.zeros((len(column), num_classes), np.uint8)
    labels[column.value_parent_indices().to_numpy(), column.flatten().to_numpy()] = 1
    return labels


def epoch_order(shard_of: np.ndarray, seed: int, epoch: int, window: int = 16) -> np.ndarray:
    """A permutation of all samples, pure in (seed, epoch, shard layout).

    Shards are shuffled, then samples inside windows of `window` shards: random enough to train on, while a disk or
    network file system reads from few files at a time.

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
