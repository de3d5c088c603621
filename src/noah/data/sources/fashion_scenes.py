"""Scenes composed from Fashion-MNIST: files and roles are those of source fashion_mnist.

Splits that name the same files, train and minival, share no image of them.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.raw import raw_paths
from noah.data.sources.fashion_mnist import fetch, load_images
from noah.data.sources.scenes import Objects, index_scenes, open_scenes, partition

__all__ = ["fetch", "index", "open_source"]


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """The scenes of a split, as `scenes.index_scenes` describes them.

    Raises:
        ValueError: A raw file is missing, altered or no idx file, a label is no class, or there are too few images.
    """
    return index_scenes(dataset, split, *_own(dataset, split))


def open_source(dataset: Dataset, split: SplitName) -> Callable[[dict], tuple[str, bytes]]:
    """A function from a row of `index` to ("png", bytes of a grayscale scene), pure in (dataset, split, key).

    Raises:
        ValueError: As `index`.
    """
    return open_scenes(dataset, split, *_own(dataset, split))


def _own(dataset: Dataset, split: SplitName) -> tuple[Objects, np.ndarray]:
    """The images of the split's file, and the numbers of those that are its own."""
    objects = load_images(dataset, split)
    if objects.labels.max() >= dataset.num_classes:
        raise ValueError(
            f"{dataset.root_path / objects.container}: the labels go to {objects.labels.max()}, expected 0 to "
            f"{dataset.num_classes - 1}"
        )
    sharing = [s for s in dataset.splits if raw_paths(dataset, s, "images", "labels")[0] == objects.container]
    return objects, partition(dataset, objects, sharing)[split]
