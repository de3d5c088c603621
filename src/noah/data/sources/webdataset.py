"""WebDataset tars of somebody else, indexed where they are: shard k of a split is tar k, in its own order.

Roles of `raw`: `tars`, a pattern such as `train-{0000..0099}.tar` or `train-*.tar`; `label`, the field of a sample that
holds its label: `cls` (a number, or a class name), or `json:label` (what stands under `label` in the JSON field);
optionally `image`, the field of the image where samples have several; and optionally `cluster`, written as `label`: the
field that names what a sample shares with others. Other fields are never opened.
"""

import json
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from braceexpand import braceexpand

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.containers import Entry, Reader, list_entries
from noah.data.order import Image, Label, source_index
from noah.data.raw import check_raw, raw_paths
from noah.data.sources.files import open_files as open_source
from noah.data.sources.folder import IMAGE_SUFFIXES
from noah.data.sources.labels import cluster_names, label_parser, whole_number

__all__ = ["fetch", "in_place", "index", "open_source"]

in_place = True
"""Shards are links to the tars of the raw data."""
PICKLED = ("pyd", "pkl", "pickle", "pth", "pt")
"""Fields that run code when they are opened."""


def fetch(dataset: Dataset) -> list[Path]:
    """Nothing to get: the tars are there.

    Raises:
        ValueError: Lists those that are not, or differ from the dataset's `files`.
    """
    names = dict.fromkeys(name for split in dataset.splits for name in _tars(dataset, split))
    check_raw(dataset, *names)
    return [dataset.root_path / name for name in names]


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """Every sample of the split's tars, tar after tar; one without a label, or without an image, is quarantined.

    A sample's name is `{tar}/{key}`.

    Raises:
        ValueError: `num_shards` is not the number of tars, a key occurs twice, a label is no class, or a sample has no
            cluster where `raw` names its field.
    """
    if dataset.minival_share:
        raise ValueError(
            f"dataset {dataset.name}: minival_share is {dataset.minival_share}, expected 0 for tars in place"
        )
    tars = _tars(dataset, split)
    expected = dataset.splits[split].num_shards
    if len(tars) != expected:
        raise ValueError(
            f"dataset {dataset.name}: splits.{split}.num_shards is {expected}, expected {len(tars)}, one per tar"
        )
    check_raw(dataset, *tars)
    readers, others = (_label_reader(dataset, split), _cluster_reader(dataset, split)), []
    images = (image for tar in tars for image in _samples(dataset, split, tar, *readers, others))
    table = source_index(dataset, split, images, shuffle=False)
    if others:
        found = f"left out {len(others)} keys that have neither an image nor a label, the first {others[0]}"
        print(f"note: {dataset.root_path}: {found}", file=sys.stderr)
    return table


def _tars(dataset: Dataset, split: SplitName) -> list[str]:
    """What the pattern stands for, relative to the root."""
    pattern = _roles(dataset, split)[0]
    try:
        names = list(braceexpand(pattern))
    except ValueError as error:
        raise ValueError(f"dataset {dataset.name}: splits.{split}.raw.tars: got '{pattern}': {error}") from None
    if not any(character in pattern for character in "*?["):
        return names
    root = dataset.root_path
    found = sorted(path.relative_to(root).as_posix() for name in names for path in root.glob(name))
    if not found:
        raise ValueError(f"{root}: no file is like '{pattern}', the tars of dataset {dataset.name} {split}")
    return found


def _roles(dataset: Dataset, split: SplitName) -> tuple[str, str, str | None, str | None]:
    return raw_paths(dataset, split, "tars", "label", optional=("image", "cluster"))


def _samples(
    dataset: Dataset, split: SplitName, tar: str, read_label: Callable, read_cluster: Callable, others: list[str]
) -> Iterator[Image]:
    """The samples of one tar; keys that are none are added to `others`."""
    _, label, image_field, cluster = _roles(dataset, split)
    path, label_field, seen = dataset.root_path / tar, _field(label), set()
    for key, group in groupby(list_entries(dataset.root_path, tar), key=lambda entry: _key_and_field(entry.name)[0]):
        entries = list(group)
        fields = {_key_and_field(entry.name)[1]: entry for entry in entries}
        if key in seen or len(fields) < len(entries):
            raise ValueError(f"{path}: key '{key}' occurs twice")
        seen.add(key)
        images = [field for field in fields if _is_image(field, image_field)]
        if len(images) > 1:
            raise ValueError(
                f"{path}: key '{key}' has images {', '.join(images)}: splits.{split}.raw.image names the one to take"
            )
        if images or label_field in fields:
            # Without an image nothing is there to read, and nothing read is what the quarantine will say.
            entry = fields[images[0]] if images else fields[label_field]._replace(size=0)
            if cluster and _field(cluster) not in fields:
                raise ValueError(
                    f"{path}: key '{key}' has no field {_field(cluster)}, which splits.{split}.raw.cluster names"
                )
            names = read_cluster(fields[_field(cluster)]) if cluster else None
            yield entry._replace(name=f"{tar}/{key}"), read_label(fields.get(label_field)), names
        else:
            others.append(f"{tar}/{key}")


def _key_and_field(name: str) -> tuple[str, str]:
    """`a/b.seg.PNG` -> `a/b`, `seg.png`, as webdataset cuts it."""
    folder, slash, file = name.rpartition("/")
    stem, _, field = file.partition(".")
    return folder + slash + stem, field.lower()


def _is_image(field: str, chosen: str | None) -> bool:
    return field == chosen if chosen else f".{field.rpartition('.')[2]}" in IMAGE_SUFFIXES


def _field(role: str) -> str:
    """The field that `json:label` or `cls` names."""
    return role.partition(":")[0]


def _label_reader(dataset: Dataset, split: SplitName) -> Callable[[Entry | None], Label]:
    """A function from the label's member, or None, to the label."""
    parse = label_parser(dataset)

    def parse_text(value: str, where: str) -> Label:
        # By custom a number in a text field is a number, even where classes are called 1, 2, 3.
        number = None if dataset.multi_label else whole_number(value)
        return parse(value if number is None else number, where)

    read = _member_reader(dataset, split, "label", parse, parse_text)
    return lambda entry: None if entry is None else read(entry)


def _cluster_reader(dataset: Dataset, split: SplitName) -> Callable[[Entry], tuple[str, ...]] | None:
    """A function from the member of the cluster to its names; None where `raw` names no field."""
    if _roles(dataset, split)[3] is None:
        return None
    return _member_reader(dataset, split, "cluster", cluster_names, cluster_names)


def _member_reader(
    dataset: Dataset, split: SplitName, role: str, parse: Callable[[Any, str], Any], parse_text: Callable
) -> Callable[[Entry], Any]:
    """A function from a member to what its JSON says under the key that the role names, or its text, parsed."""
    said = dataset.splits[split].raw[role]
    field, colon, json_key = said.partition(":")
    if field.rpartition(".")[2] in PICKLED:
        raise ValueError(
            f"dataset {dataset.name}: splits.{split}.raw.{role}: got '{said}', a pickle, which is never opened"
        )
    reader = Reader(dataset.root_path)

    def read(entry: Entry) -> Any:
        where = f"{dataset.root_path / entry.container}: {entry.name}"
        data = reader.read(entry._asdict())
        try:
            value = json.loads(data) if colon else data.decode("utf-8").strip()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not {'JSON' if colon else 'text in UTF-8'}: {error}") from None
        if not colon:
            return parse_text(value, where)
        if not isinstance(value, dict):
            raise ValueError(f"{where}: got {type(value).__name__}, expected an object with '{json_key}'")
        return parse(value.get(json_key), f"{where}: {json_key}")

    return read
