"""From the raw images of a split to its source index: the minival cut, the checks, the seeded order and the keys."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.checks import CLUSTER, CLUSTERS
from noah.data.containers import Entry

ORDER = "order"
"""What a stream of random numbers is for, first word of its seed."""

Label = int | Sequence[int] | None
"""A class number, several (multi-label), or None where the raw data has none: such an image is quarantined."""
Names = Sequence[str] | None
"""What an image shares with others (a patient, a video); None where the raw data does not say."""
Image = tuple[Entry, Label] | tuple[Entry, Label, Names]


def source_index(dataset: Dataset, split: SplitName, images: Iterable[Image], *, shuffle: bool = True) -> pa.Table:
    """The source index of a split.

    The order depends on the names of the images and the dataset's seed alone, not on where they lie: a folder and a tar
    of the same images give the same order.

    Args:
        dataset: The dataset.
        split: Its split; train and a minival that is cut from it divide the same images by a hash of each name.
        images: Every raw image with its label; and, of all of them or of none, the names of its clusters.
        shuffle: False keeps the order of `images`.

    Returns:
        key (zero-padded number), name, container, offset, size, deflated, and label (int32, null for None) or labels
        (list of int32, sorted); and cluster (list of string, distinct and sorted) where the images have names.

    Raises:
        ValueError: Another number of images than the split's `samples`, a name that occurs twice, a label that is no
            class, a class of the training split without an image, or an image without a cluster where others have one.
    """
    cut = dataset.minival_share > 0 and split in ("train", "minival")
    columns: dict[str, list] = {
        name: [] for name in ("name", "container", "offset", "size", "deflated", "label", CLUSTER)
    }
    found = 0
    for entry, label, *names in images:
        found += 1
        if cut and _in_minival(dataset, entry.name) != (split == "minival"):
            continue
        for column, value in zip(columns.values(), (*entry, label, *(names or [None])), strict=True):
            column.append(value)
    _check_count(dataset, split, found)
    _check_labels(dataset, split, columns)
    labels = {"label": pa.array(columns["label"], pa.int32())} if not dataset.multi_label else {}
    if dataset.multi_label:
        labels["labels"] = pa.array([_sorted(label) for label in columns["label"]], pa.list_(pa.int32()))
    table = pa.table(
        {
            "name": _strings(dataset, columns["name"]),
            "container": _strings(dataset, columns["container"]),
            "offset": pa.array(columns["offset"], pa.int64()),
            "size": pa.array(columns["size"], pa.int64()),
            "deflated": pa.array(columns["deflated"], pa.bool_()),
            **labels,
            **_clusters(dataset, columns),
        }
    )
    by_name = pc.sort_indices(table["name"])
    _check_distinct(dataset, split, table["name"].take(by_name))
    if shuffle:
        shuffled = np.random.default_rng(_seed(ORDER, dataset.seed, split)).permutation(table.num_rows)
        table = table.take(by_name.take(pa.array(shuffled)))
    width = max(8, len(str(table.num_rows)))
    keys = pa.array((f"{number:0{width}d}" for number in range(table.num_rows)), pa.string())
    return table.add_column(0, "key", keys).combine_chunks()


def _check_count(dataset: Dataset, split: SplitName, found: int) -> None:
    whole = dataset.raw_split(split)
    expected = dataset.splits[whole].samples
    if expected is not None and found != expected:
        raise ValueError(f"dataset {dataset.name}: split {whole} has {found:,} images, expected samples = {expected:,}")


def _in_minival(dataset: Dataset, name: str) -> bool:
    return _seed("minival", dataset.seed, name) < dataset.minival_share * 2**64


def _seed(*parts) -> int:
    """64 bits of a hash, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _strings(dataset: Dataset, values: list, kind: pa.DataType = pa.string()) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError as error:
        what = "file name" if kind == pa.string() else CLUSTER
        raise ValueError(f"dataset {dataset.name}: {what} {error.object!r} is not UTF-8") from None


def _check_distinct(dataset: Dataset, split: str, sorted_names: pa.ChunkedArray) -> None:
    same = pc.equal(sorted_names.slice(1), sorted_names.slice(0, max(0, len(sorted_names) - 1)))
    doubled = sorted_names.slice(1).filter(same)
    if len(doubled):
        raise ValueError(f"dataset {dataset.name}: split {split} has image '{doubled[0]}' more than once")


def _check_labels(dataset: Dataset, split: str, columns: dict[str, list]) -> None:
    found: set[int] = set()
    for row, label in enumerate(columns["label"]):
        own = () if label is None else label if dataset.multi_label else (label,)
        for one in own:
            if not 0 <= one < dataset.num_classes:
                raise ValueError(
                    f"{dataset.root_path / columns['container'][row]}: label of '{columns['name'][row]}' is {one}, "
                    f"expected 0 to {dataset.num_classes - 1}"
                )
        found.update(own)
    empty = [name for number, name in enumerate(dataset.classes) if number not in found]
    if split == "train" and empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise ValueError(f"dataset {dataset.name}: split train has no image of class '{empty[0]}'{more}")


def _clusters(dataset: Dataset, columns: dict[str, list]) -> dict[str, pa.Array]:
    """The column `cluster`, or none where no image has a name."""
    found = columns[CLUSTER]
    if not any(names is not None for names in found):
        return {}
    for row, names in enumerate(found):
        if not names or "" in names:
            raise ValueError(
                f"{dataset.root_path / columns['container'][row]}: cluster of '{columns['name'][row]}' is {names!r}, "
                "expected at least one name"
            )
    return {CLUSTER: _strings(dataset, [sorted(set(names)) for names in found], CLUSTERS)}


def _sorted(label: Sequence[int] | None) -> list[int] | None:
    return None if label is None else sorted(set(label))
