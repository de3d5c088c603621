"""Annotations in COCO's format (https://cocodataset.org/#format-data), which iNaturalist has too."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.containers import Entry, list_entries
from noah.data.packed import read_packed, split_member, unpack, unpacked
from noah.data.raw import check_raw, raw_paths

ROLES = ("annotations", "images")
_IMAGE = {"id": int, "file_name": str}
_CATEGORY = {"id": int, "name": str}
_ANNOTATION = {"image_id": int, "category_id": int}
_KEPT = {"info", "year", "images", "categories", "annotations", *_IMAGE, *_CATEGORY, *_ANNOTATION}


class Annotations(NamedTuple):
    """What classification takes of an annotation file."""

    where: str
    """The file, and the year that it says it is of."""
    images: dict[int, str]
    """Image id -> file name."""
    categories: dict[int, str]
    """Category id -> name."""
    labels: dict[int, set[int]]
    """Image id -> ids of the categories that annotations give it; images without annotation are left out."""


def fetch_raw(dataset: Dataset, download: str) -> list[Path]:
    """Check the raw files of all splits, and write the plain tar beside each .tar.gz of images.

    Args:
        dataset: The dataset.
        download: Says where the files come from.

    Raises:
        ValueError: Lists all files that are missing or wrong; or there is no room.
    """
    annotations, images = zip(*(raw_paths(dataset, split, *ROLES) for split in dataset.splits), strict=True)
    return unpack(dataset, images, download, others=[split_member(path)[0] for path in annotations])


def read_split(dataset: Dataset, split: SplitName) -> tuple[Annotations, str]:
    """The annotations of a split, and its folder, tar or zip of images below the root.

    Raises:
        ValueError: A raw file is missing or wrong, or the annotations are.
    """
    annotations, images = raw_paths(dataset, split, *ROLES)
    images = unpacked(dataset, images)
    check_raw(dataset, split_member(annotations)[0], images)
    return read_annotations(dataset, annotations), images


def read_annotations(dataset: Dataset, path: str) -> Annotations:
    """A .json below the root, or inside an archive there (`annotations_trainval2014.zip/annotations/x.json`).

    Raises:
        ValueError: It is no JSON of this format, an id occurs twice, or an annotation is of an unknown image or
            category.
    """
    where = str(dataset.root_path / path)
    try:
        # Polygons are nine tenths of COCO's files: they are dropped as they are parsed.
        data = json.loads(read_packed(dataset.root_path, path), object_hook=_keep)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    info = data.get("info") if isinstance(data, dict) else None
    if isinstance(info, dict) and "year" in info:
        where = f"{where} (year {info['year']})"
    images = _by_id(where, data, "images", _IMAGE)
    categories = _by_id(where, data, "categories", _CATEGORY)
    labels: dict[int, set[int]] = {}
    for number, row in enumerate(_rows(where, data, "annotations", _ANNOTATION)):
        for field, known in (("image_id", images), ("category_id", categories)):
            if row[field] not in known:
                raise ValueError(f"{where}: annotations[{number}]: {field} is {row[field]}, expected a known one")
        labels.setdefault(row["image_id"], set()).add(row["category_id"])
    return Annotations(where, images, categories, labels)


def find_images(dataset: Dataset, annotations: Annotations, ids: Iterable[int], path: str) -> dict[int, Entry]:
    """Where each image lies, named as the annotations do, so that a folder and an archive give the same order.

    Args:
        dataset: The dataset.
        annotations: Their file names are matched with the last parts of the paths found, as many as they have.
        ids: Of the images wanted; others in the archive are left alone.
        path: Folder, tar or zip below the root.

    Raises:
        ValueError: An image is not there, or twice.
    """
    wanted: dict[str, int] = {}
    for number in ids:
        if wanted.setdefault(annotations.images[number], number) != number:
            raise ValueError(f"{annotations.where}: file_name '{annotations.images[number]}' is there twice")
    depth = 1 + max((name.count("/") for name in wanted), default=0)
    is_folder = (dataset.root_path / path).is_dir()
    found: dict[int, Entry] = {}
    for entry in list_entries(dataset.root_path, path):
        name = "/".join((entry.container if is_folder else entry.name).split("/")[-depth:])
        if name not in wanted:
            continue
        if wanted[name] in found:
            raise ValueError(f"{dataset.root_path / path}: image '{name}' is there twice")
        found[wanted[name]] = entry._replace(name=name)
    missing = [name for name, number in wanted.items() if number not in found]
    if missing:
        raise ValueError(
            f"{annotations.where}: {len(missing):,} of {len(wanted):,} images are not in {path}, the first is "
            f"'{missing[0]}': annotations of another year or split, or images that are not complete"
        )
    return found


def _keep(fields: dict) -> dict:
    return {key: value for key, value in fields.items() if key in _KEPT}


def _by_id(where: str, data: dict, key: str, fields: dict[str, type]) -> dict[int, str]:
    """id -> the other field."""
    (_, other), rows = fields, {}
    for number, row in enumerate(_rows(where, data, key, fields)):
        if row["id"] in rows:
            raise ValueError(f"{where}: {key}[{number}]: id {row['id']} is there twice")
        rows[row["id"]] = row[other]
    return rows


def _rows(where: str, data: dict, key: str, fields: dict[str, type]) -> Iterator[dict]:
    rows = data.get(key) if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{where}: no list '{key}', expected images, categories and annotations in COCO's format")
    for number, row in enumerate(rows):
        for field, kind in fields.items():
            value = row.get(field) if isinstance(row, dict) else None
            if type(value) is not kind:  # True is an int too
                raise ValueError(f"{where}: {key}[{number}]: {field} is {value!r}, expected {kind.__name__}")
        yield row
