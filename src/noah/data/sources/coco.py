"""MS-COCO (Lin et al., arXiv 1405.0312) as multi-label classification: which of 80 objects are in an image.

Raw data: `annotations` (instances_*.json, also inside the published zip) and `images` (zip or folder). As in ML-GCN
(arXiv 1904.03582), ASL (arXiv 2009.14119) and CSRA (arXiv 2108.02456), images without any annotation are left out, and
crowds and objects of any size count.
"""

from pathlib import Path

import pyarrow as pa

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.order import source_index
from noah.data.sources.annotations import Annotations, fetch_raw, find_images, read_split
from noah.data.sources.files import open_files as open_source

__all__ = ["fetch", "index", "open_source"]

DOWNLOAD = "download them from https://cocodataset.org/#download into this folder, see docs/datasets/coco.md"


def fetch(dataset: Dataset) -> list[Path]:
    """Check the raw files; nothing is downloaded or unpacked.

    Raises:
        ValueError: Lists all files that are missing or wrong.
    """
    return fetch_raw(dataset, DOWNLOAD)


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """The annotated images of a split; class number = place of the category id among the sorted ids.

    Raises:
        ValueError: A raw file is missing or wrong, the categories are not the dataset's classes, or an image is not in
            the archive.
    """
    annotations, path = read_split(dataset, split)
    number = _class_numbers(dataset, annotations)
    labels = {image: [number[category] for category in found] for image, found in annotations.labels.items()}
    entries = find_images(dataset, annotations, labels, path)
    return source_index(dataset, split, [(entries[image], labels[image]) for image in entries])


def _class_numbers(dataset: Dataset, annotations: Annotations) -> dict[int, int]:
    ids = sorted(annotations.categories)
    names = [annotations.categories[category] for category in ids]
    if len(names) != dataset.num_classes:
        raise ValueError(f"{annotations.where}: got {len(names)} categories, expected {dataset.num_classes}")
    for category, name, expected in zip(ids, names, dataset.classes, strict=True):
        if name != expected:
            raise ValueError(f"{annotations.where}: category {category} is '{name}', expected class '{expected}'")
    return {category: number for number, category in enumerate(ids)}
