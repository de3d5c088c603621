"""A folder of images, or a tar or zip of one: `class/…/image.jpg`.

Roles of `raw`: `images`, the folder or archive; optionally `inside`, the folder within it that holds the classes. The
dataset's `cluster` is searched in the names of the images, `class/…/image.jpg`.
"""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import splitext

import pyarrow as pa

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.containers import Entry, list_entries
from noah.data.order import source_index
from noah.data.raw import check_raw, raw_paths
from noah.data.sources.files import open_files as open_source

__all__ = ["fetch", "image_entries", "index", "open_source"]

IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"])
NAMED = 5
"""Names that a message lists before it only counts."""


def fetch(dataset: Dataset) -> list[Path]:
    """Nothing to get: the user's folders and archives are there.

    Raises:
        ValueError: Lists those that are not, or differ from the dataset's `files`.
    """
    names = dict.fromkeys(_roles(dataset, split)[0] for split in dataset.splits)
    check_raw(dataset, *names)
    return [dataset.root_path / name for name in names]


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """Every image of the split with the class that its outermost folder names.

    Raises:
        ValueError: A folder is no class, two folders or classes are spellings of one, an image lies in no folder, or
            the dataset's `cluster` finds nothing in a name.
    """
    images, inside = _roles(dataset, split)
    check_raw(dataset, images)
    path = dataset.root_path / images
    below = "" if inside in (None, ".") else f"{PurePosixPath(inside)}/"
    numbers = {name: number for number, name in enumerate(dataset.classes)}
    entries, folders = [], []
    for entry in image_entries(dataset, images):
        if not entry.name.startswith(below):
            continue
        name = entry.name.removeprefix(below)
        if "/" not in name:
            raise ValueError(f"{path}: '{entry.name}' lies in no class folder")
        entries.append(entry._replace(name=name))
        folders.append(name.partition("/")[0].removesuffix(".tar"))
    if not entries:
        raise ValueError(f"{path}: no images{f' in {inside}' if inside else ''}, expected class/…/image.jpg")
    _check_spellings(path, {*folders, *dataset.classes})
    unknown = sorted(set(folders) - set(numbers))
    if unknown:
        raise ValueError(f"{path}: {listed(unknown)} no class of dataset {dataset.name}, expected its class names only")
    labels, clusters = [numbers[folder] for folder in folders], _clusters(dataset, path, entries)
    return source_index(dataset, split, zip(entries, labels, clusters, strict=True))


def image_entries(dataset: Dataset, relative: str) -> Iterator[Entry]:
    """The files of a folder or archive that are images by their names; what else there is, a note on stderr counts."""
    others: Counter[str] = Counter()
    for entry in list_entries(dataset.root_path, relative):
        suffix = splitext(entry.name)[1]
        if suffix.lower() in IMAGE_SUFFIXES:
            yield entry
        else:
            others[suffix or "no suffix"] += 1
    if others:
        counts = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(others.items()))
        print(f"note: {dataset.root_path / relative}: left out files that are no images: {counts}", file=sys.stderr)


def listed(names: list[str]) -> str:
    """`'a', 'b' and 3 more are`, for a message."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(map(repr, names[:NAMED]))}{more} {'is' if len(names) == 1 else 'are'}"


def _roles(dataset: Dataset, split: SplitName) -> tuple[str, str | None]:
    return raw_paths(dataset, split, "images", optional=("inside",))


def _clusters(dataset: Dataset, path: Path, entries: list[Entry]) -> list[tuple[str] | None]:
    """What the dataset's `cluster` finds in the name of each image; None of each where there is no pattern."""
    if dataset.cluster is None:
        return [None] * len(entries)
    pattern, clusters = re.compile(dataset.cluster), []
    for entry in entries:
        match = pattern.search(entry.name)
        cluster = match and match[1 if pattern.groups else 0]
        if not cluster:
            raise ValueError(
                f"{path}: '{entry.name}': got no name from cluster '{dataset.cluster}' of dataset {dataset.name}, "
                "expected one in every image's name"
            )
        clusters.append((cluster,))
    return clusters


def _check_spellings(path: Path, names: set[str]) -> None:
    """No two names differ only in case, spaces, or the Unicode form of a letter."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        other = seen.setdefault(key, name)
        if other != name:
            # Two forms of one letter look the same, except as escapes.
            raise ValueError(f"{path}: {other!a} and {name!a} are two spellings of one class")
