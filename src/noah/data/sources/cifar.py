"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), from the binary archives; the python ones are pickles and stay closed.

Raw data: `archive`, cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, for both splits. A record is one byte of label
(CIFAR-100: coarse, then fine) and 3,072 of pixels: red, green and blue planes of 32x32
(https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.containers import Entry, Reader, list_entries
from noah.data.download import download
from noah.data.order import source_index
from noah.data.packed import unpack, unpacked
from noah.data.raw import check_raw, raw_paths

URL = "https://www.cs.toronto.edu/~kriz"
SHAPE = (3, 32, 32)
PIXELS_BYTES = 3 * 32 * 32


class Layout(NamedTuple):
    """Of a binary archive."""

    archive: str
    files: dict[str, list[str]]
    """Split -> its files of records."""
    names: str
    """The file of class names, one a line."""
    label_bytes: int
    label: int
    """Which of them is the label."""


_ONE_FILE = {"train": ["train.bin"], "test": ["test.bin"]}
LAYOUTS = {
    10: Layout(
        "cifar-10-binary.tar.gz",
        {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]},
        "batches.meta.txt",
        label_bytes=1,
        label=0,
    ),
    100: Layout("cifar-100-binary.tar.gz", _ONE_FILE, "fine_label_names.txt", label_bytes=2, label=1),
    20: Layout("cifar-100-binary.tar.gz", _ONE_FILE, "coarse_label_names.txt", label_bytes=2, label=0),
}
"""By the number of classes: CIFAR-10, the fine labels of CIFAR-100, and its coarse ones."""


def fetch(dataset: Dataset) -> list[Path]:
    """Download the archive unless it is there, check it, and write the plain tar beside it.

    Raises:
        ValueError: The archive is a python one, or wrong, or cannot be downloaded.
    """
    layout, root = _layout(dataset), dataset.root_path
    paths = {_archive(dataset, split) for split in dataset.splits}
    url = f"{URL}/{layout.archive}"
    for path in sorted(paths):
        there = (root / path).exists() or (root / path.removesuffix(".gz")).exists()
        if not there and path == layout.archive and path in dataset.files:
            download(url, root / path, dataset.files[path])
    return unpack(dataset, sorted(paths), f"it is to be had from {url}")


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """The records of a split; offset and size are those of the pixels, inside the plain tar.

    Raises:
        ValueError: The archive is missing, wrong or a python one, or its class names are not the dataset's.
    """
    path = unpacked(dataset, _archive(dataset, split))
    try:
        check_raw(dataset, path)
    except ValueError as error:
        raise ValueError(f"{error}; `noah fetch {dataset.name}` downloads the archive") from None
    return source_index(dataset, split, list(_records(dataset, split, path)))


def open_source(dataset: Dataset, split: SplitName) -> Callable[[dict], tuple[str, bytes]]:
    """A function from a row of `index` to ("png", bytes of an RGB image of 32x32)."""
    reader = Reader(dataset.root_path)

    def read(row: dict) -> tuple[str, bytes]:
        planes = np.frombuffer(reader.read(row), np.uint8).reshape(SHAPE)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(buffer, "PNG")
        return "png", buffer.getvalue()

    return read


def _layout(dataset: Dataset) -> Layout:
    if dataset.num_classes not in LAYOUTS:
        raise ValueError(
            f"dataset {dataset.name}: got {dataset.num_classes} classes, expected 10 (CIFAR-10), 100 or 20 "
            "(fine or coarse labels of CIFAR-100)"
        )
    return LAYOUTS[dataset.num_classes]


def _archive(dataset: Dataset, split: SplitName) -> str:
    (path,) = raw_paths(dataset, split, "archive")
    if "-python" in path or "-matlab" in path:
        raise _not_binary(dataset, path)
    return path


def _not_binary(dataset: Dataset, path: str) -> ValueError:
    layout = _layout(dataset)
    return ValueError(
        f"{dataset.root_path / path}: not the binary version of CIFAR (the python one is a pickle and is never "
        f"opened), expected {layout.archive} from {URL}/{layout.archive}"
    )


def _records(dataset: Dataset, split: SplitName, path: str) -> Iterator[tuple[Entry, int]]:
    layout, raw_split = _layout(dataset), dataset.raw_split(split)
    if raw_split not in layout.files:
        raise ValueError(
            f"dataset {dataset.name}: CIFAR has no split {split} of its own, expected minival_share with it"
        )
    members = {PurePosixPath(entry.name).name: entry for entry in list_entries(dataset.root_path, path)}
    wanted = layout.files[raw_split]
    missing = [name for name in (*wanted, layout.names) if name not in members]
    if missing and any(name.removesuffix(".bin") in members for name in wanted):
        raise _not_binary(dataset, path)
    where = dataset.root_path / path
    if missing:
        raise ValueError(f"{where}: has no {', '.join(missing)}, expected the members of {layout.archive}")
    reader = Reader(dataset.root_path)
    names = tuple(reader.read(members[layout.names]._asdict()).decode("ascii", "replace").split())
    if names != dataset.classes:
        raise ValueError(f"{where}: {layout.names}: {_first_difference(names, dataset.classes)}")
    for name in wanted:
        entry = members[name]
        count, rest = divmod(entry.size, layout.label_bytes + PIXELS_BYTES)
        if rest:
            raise ValueError(
                f"{where}: {name} has {entry.size:,} bytes, expected records of {layout.label_bytes + PIXELS_BYTES:,}"
            )
        records = np.frombuffer(reader.read(entry._asdict()), np.uint8).reshape(count, -1)
        for number, label in enumerate(records[:, layout.label].tolist()):
            offset = entry.offset + number * records.shape[1] + layout.label_bytes
            name_of_record = f"{name.removesuffix('.bin')}/{number:05d}"
            yield entry._replace(name=name_of_record, offset=offset, size=PIXELS_BYTES), label


def _first_difference(found: tuple[str, ...], classes: tuple[str, ...]) -> str:
    if len(found) != len(classes):
        return f"got {len(found)} class names, expected {len(classes)}"
    number = next(number for number, name in enumerate(found) if name != classes[number])
    return f"class {number} is '{found[number]}', expected '{classes[number]}'"
