"""Scenes composed from the UCI digits, in the manner of cluttered MNIST (Mnih et al., arXiv 1406.6247).

Raw data: the 1,797 images of 8x8 pixels with values 0..16 that scikit-learn's wheel ships (E. Alpaydin and C. Kaynak,
"Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, CC BY 4.0).
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.sources.scenes import Objects, index_scenes, open_scenes, partition
from noah.files import sha256_file, write_atomic

IMAGES, LABELS = "images.npy", "labels.npy"
BRIGHTEST = 16
"""Of a raw digit."""


def fetch(dataset: Dataset) -> list[Path]:
    """Write scikit-learn's digits as uncompressed arrays: images uint8 (1797, 8, 8), labels uint8 (1797,).

    A right file is left untouched.

    Raises:
        ValueError: A file is there but altered, or scikit-learn ships other digits than the dataset's sha256 says.
    """
    from sklearn import datasets  # a second to import, and only needed once per clone

    digits = datasets.load_digits()
    arrays = {IMAGES: digits.images.astype(np.uint8), LABELS: digits.target.astype(np.uint8)}
    paths = []
    for name, array in arrays.items():
        path = dataset.root_path / name
        if path.exists():
            _check_sha256(dataset, name, sha256_file(path))
        else:
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            _check_sha256(dataset, name, hashlib.sha256(buffer.getvalue()).hexdigest())
            with write_atomic(path) as temporary:
                temporary.write_bytes(buffer.getvalue())
        paths.append(path)
    return paths


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """The scenes of a split, as `scenes.index_scenes` describes them.

    Raises:
        ValueError: A raw file is missing or altered, a label is no class, or there are too few source images.
    """
    digits = load_digits(dataset)
    return index_scenes(dataset, split, digits, partition(dataset, digits, dataset.splits)[split])


def open_source(dataset: Dataset, split: SplitName) -> Callable[[dict], tuple[str, bytes]]:
    """A function from a row of `index` to ("png", bytes of a grayscale scene), pure in (dataset, split, key).

    Raises:
        ValueError: As `index`.
    """
    digits = load_digits(dataset)
    return open_scenes(dataset, split, digits, partition(dataset, digits, dataset.splits)[split])


def load_digits(dataset: Dataset) -> Objects:
    """The raw digits, mapped, after their sha256 and labels were checked."""
    root = dataset.root_path
    for name in (IMAGES, LABELS):
        if not (root / name).is_file():
            raise ValueError(f"{root / name}: no such file, expected the raw digits (`noah fetch {dataset.name}`)")
        _check_sha256(dataset, name, sha256_file(root / name))
    images, labels = np.load(root / IMAGES, mmap_mode="r"), np.load(root / LABELS)
    if images.shape != (len(labels), 8, 8) or labels.ndim != 1 or not images.dtype == labels.dtype == np.uint8:
        raise ValueError(
            f"{root / IMAGES}: got {images.dtype} {images.shape} for {labels.dtype} {labels.shape} labels, "
            "expected uint8 (S, 8, 8) for uint8 (S,)"
        )
    wrong = np.flatnonzero(labels >= dataset.num_classes)
    if len(wrong):
        raise ValueError(
            f"{root / LABELS}: label of digit {wrong[0]} is {labels[wrong[0]]}, expected 0 to {dataset.num_classes - 1}"
        )
    return Objects(IMAGES, images, labels, BRIGHTEST)


def _check_sha256(dataset: Dataset, name: str, found: str) -> None:
    path, expected = dataset.root_path / name, dataset.files.get(name)
    if expected is None:
        raise ValueError(f"dataset {dataset.name}: files: missing key '{name}', expected its sha256 (found {found})")
    if found != expected:
        raise ValueError(
            f"{path}: sha256 is {found}, expected {expected} as dataset {dataset.name} says; "
            f"remove the file and run `noah fetch {dataset.name}`"
        )
