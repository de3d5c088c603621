"""iNaturalist of the competitions of 2018, 2019 and 2021 (Van Horn et al., arXiv 1707.06642 and 2103.16483).

Raw data: `annotations` (train2018.json, …, also inside the published tar.gz) and `images` (the published tar.gz, or
the folder that it unpacks to). Class number = category id.
"""

from pathlib import Path

import pyarrow as pa

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.order import source_index
from noah.data.sources.annotations import Annotations, fetch_raw, find_images, read_split
from noah.data.sources.files import open_files as open_source

__all__ = ["fetch", "index", "open_source"]

DOWNLOAD = (
    "download them as https://github.com/visipedia/inat_comp says into this folder, see docs/datasets/inaturalist.md"
)


def fetch(dataset: Dataset) -> list[Path]:
    """Check the raw files and write the plain tar beside each .tar.gz of images, which takes as much room again.

    Raises:
        ValueError: Lists all files that are missing or wrong; or there is no room.
    """
    return fetch_raw(dataset, DOWNLOAD)


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """The images of a split; one without annotation has no label.

    Raises:
        ValueError: A raw file is missing or wrong, the category ids are not the dataset's class numbers, an image has
            two categories or is not in the archive.
    """
    annotations, path = read_split(dataset, split)
    ids = sorted(annotations.categories)
    if ids != list(range(dataset.num_classes)):
        raise ValueError(
            f"{annotations.where}: got {len(ids)} categories with ids from {ids[0] if ids else None} to "
            f"{ids[-1] if ids else None}, expected 0 to {dataset.num_classes - 1}: annotations of another year"
        )
    entries = find_images(dataset, annotations, annotations.images, path)
    return source_index(dataset, split, [(entry, _label(annotations, image)) for image, entry in entries.items()])


def _label(annotations: Annotations, image: int) -> int | None:
    labels = annotations.labels.get(image, set())
    if len(labels) > 1:
        raise ValueError(f"{annotations.where}: image {image} has categories {sorted(labels)}, expected one")
    return next(iter(labels), None)
