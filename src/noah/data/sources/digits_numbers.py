"""Numbers of three digits, each a row of three real ones: a data set of any size over 1,000 classes, to try out scale.

Class k is the number k, from 000 to 999; the digits are those of source digits_scenes.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.sources.digits_scenes import fetch, load_digits
from noah.data.sources.scenes import ORDER, SPLIT_NUMBER, cluster_column, partition, png, raw_columns

__all__ = ["fetch", "index", "open_source"]

PLACES = np.array([100, 10, 1])


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """As many numbers as the split has `samples`: every class gets the same share, in a random order.

    Returns:
        A table of key, container, offset and size (of the first digit), objects (the numbers of the three raw digits),
        label, and cluster (the distinct ones of these numbers).

    Raises:
        ValueError: A raw file is missing or altered, there are other than 1,000 classes, or the split has too few raw
            images to hold all ten digits.
    """
    if dataset.num_classes != 1000:
        raise ValueError(f"dataset {dataset.name}: got {dataset.num_classes} classes, expected 1000 for its source")
    digits = load_digits(dataset)
    members = partition(dataset, digits, dataset.splits)[split]
    of_class = [members[digits.labels[members] == digit] for digit in range(10)]
    if min(map(len, of_class)) == 0:
        raise ValueError(
            f"dataset {dataset.name}: splits.{split}.source_images is {len(members)}, expected enough for all digits"
        )
    rng = np.random.default_rng([ORDER, dataset.seed, SPLIT_NUMBER[split]])
    samples = dataset.splits[split].samples
    labels = rng.permutation(samples) % 1000
    shown = labels[:, None] // PLACES % 10
    chosen = np.empty((samples, 3), np.int32)
    for digit, own in enumerate(of_class):
        where = shown == digit
        chosen[where] = rng.choice(own, where.sum())
    return pa.table(
        {
            **raw_columns(digits, chosen[:, 0].astype(np.int64)),
            "objects": pa.FixedSizeListArray.from_arrays(chosen.ravel(), 3),
            "label": labels.astype(np.int32),
            "cluster": cluster_column(chosen.ravel(), np.full(samples, 3)),
        }
    )


def open_source(dataset: Dataset, split: SplitName) -> Callable[[dict], tuple[str, bytes]]:
    """A function from a row of `index` to ("png", bytes of a grayscale image of 8x24 pixels).

    Raises:
        ValueError: A raw file is missing or altered.
    """
    digits = load_digits(dataset)
    pixels = np.stack([digits.pixels(number) for number in range(len(digits.labels))])
    return lambda row: ("png", png(np.hstack(pixels[row["objects"]])))
