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
from PIL import Image

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.files import sha256_file, write_atomic

IMAGES, LABELS = "images.npy", "labels.npy"
BRIGHTEST = 16
"""Of a raw digit."""
SPLIT_NUMBER = {"test": 0, "minival": 1, "train": 2}
"""Enters the seeds; also the order in which splits take their digits: another size of train leaves the others alone."""
PARTITION, ORDER, COMPOSE = range(1, 4)
"""What a stream of random numbers is for: the first word of its seed."""


def fetch(dataset: Dataset) -> list[Path]:
    """Write scikit-learn's digits as uncompressed arrays: images uint8 (1797, 8, 8), labels uint8 (1797,).

    A right file is left untouched.

    Raises:
        ValueError: A file is there but altered, or scikit-learn ships other digits than the dataset's sha256 says.
    """
    from sklearn.datasets import load_digits  # a second to import, and only needed once per clone

    digits = load_digits()
    arrays = {IMAGES: digits.images.astype(np.uint8), LABELS: digits.target.astype(np.uint8)}
    paths = []
    for name, array in arrays.items():
        path = Path(dataset.root) / name
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
    """The scenes of a split: each names the raw digit that is its subject, and every digit of the split takes its turn.

    Returns:
        A table of `samples` rows; scene k has key k, so the seeded order is the order of the keys.

    Raises:
        ValueError: A raw file is missing or altered, a label is no class, or there are too few source images.
    """
    images, labels = _load_raw(dataset)
    members = _partition(dataset, labels)[split]
    rng = np.random.default_rng([ORDER, dataset.seed, SPLIT_NUMBER[split]])
    samples = dataset.splits[split].samples
    rounds = [rng.permutation(members) for _ in range(-(-samples // len(members)))]
    subjects = np.concatenate(rounds)[:samples].astype(np.int64)
    return pa.table(
        {
            "key": [f"{scene:08d}" for scene in range(samples)],
            "container": [IMAGES] * samples,
            "offset": images.offset + subjects * images[0].nbytes,
            "size": np.full(samples, images[0].nbytes, np.int64),
            "label": labels[subjects].astype(np.int32),
        }
    )


def open_source(dataset: Dataset, split: SplitName) -> Callable[[dict], tuple[str, bytes]]:
    """A function from a row of `index` to ("png", bytes of a grayscale scene), pure in (dataset, split, key).

    Raises:
        ValueError: As `index`.
    """
    images, labels = _load_raw(dataset)
    members = _partition(dataset, labels)[split]
    offset, size = images.offset, images[0].nbytes
    pixels = np.round(np.asarray(images) * (255 / BRIGHTEST)).astype(np.uint8)

    def read(row: dict) -> tuple[str, bytes]:
        subject, rest = divmod(row["offset"] - offset, size)
        if rest or subject not in members:
            raise ValueError(f"{row['container']}: offset {row['offset']} of key {row['key']} is no digit of {split}")
        rng = np.random.default_rng([COMPOSE, dataset.seed, SPLIT_NUMBER[split], int(row["key"])])
        scene = _compose(dataset, pixels, subject, members[members != subject], rng)
        buffer = io.BytesIO()
        Image.fromarray(scene).save(buffer, "PNG")
        return "png", buffer.getvalue()

    return read


def _compose(dataset: Dataset, pixels: np.ndarray, subject: int, others: np.ndarray, rng) -> np.ndarray:
    """One scene, uint8 (canvas, canvas). Where digit and clutter overlap, the brighter wins."""
    scenes = dataset.scenes
    canvas = np.zeros((scenes.canvas, scenes.canvas), np.uint8)
    _paste(canvas, _enlarge(pixels[subject], scenes.digit_px, rng), rng)
    for _ in range(scenes.clutter):
        digit = _enlarge(pixels[rng.choice(others)], scenes.digit_px, rng)
        side = min(scenes.clutter_px, len(digit))
        top, left = rng.integers(len(digit) - side + 1, size=2)
        piece = digit[top : top + side, left : left + side] * scenes.clutter_strength
        _paste(canvas, piece.astype(np.uint8), rng)
    return canvas


def _enlarge(digit: np.ndarray, digit_px: tuple[int, int], rng) -> np.ndarray:
    """uint8 (8, 8) -> uint8 (s, s), s drawn from `digit_px`, both ends included."""
    side = int(rng.integers(digit_px[0], digit_px[1] + 1))
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def _paste(canvas: np.ndarray, piece: np.ndarray, rng) -> None:
    top, left = rng.integers(len(canvas) - len(piece) + 1, size=2)
    window = canvas[top : top + len(piece), left : left + len(piece)]
    np.maximum(window, piece, out=window)


def _partition(dataset: Dataset, labels: np.ndarray) -> dict[SplitName, np.ndarray]:
    """Which raw digits stand behind each split: disjoint, and each class in each split by its share of the whole."""
    asked = {split: dataset.splits[split].source_images for split in SPLIT_NUMBER if split in dataset.splits}
    if sum(asked.values()) > len(labels):
        raise ValueError(
            f"dataset {dataset.name}: splits.*.source_images are {asked}, {sum(asked.values())} in all, "
            f"expected at most the {len(labels)} digits of {LABELS}"
        )
    if dataset.scenes.clutter and min(asked.values()) < 2:
        raise ValueError(
            f"dataset {dataset.name}: splits.*.source_images are {asked}, expected at least 2 with clutter"
        )
    rng = np.random.default_rng([PARTITION, dataset.seed])
    shuffled = rng.permutation(len(labels))
    # Every image gets its place within its class, from 0 to 1: in the order of places all classes run out together.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    order = shuffled[np.argsort(place[shuffled], kind="stable")]
    ends = np.cumsum(list(asked.values()))
    return dict(zip(asked, np.split(order[: ends[-1]], ends[:-1]), strict=True))


def _load_raw(dataset: Dataset) -> tuple[np.memmap, np.ndarray]:
    """Images (S, 8, 8), mapped, and labels (S,), both uint8, after their sha256 and labels were checked."""
    root = Path(dataset.root)
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
    return images, labels


def _check_sha256(dataset: Dataset, name: str, found: str) -> None:
    path, expected = Path(dataset.root) / name, dataset.files.get(name)
    if expected is None:
        raise ValueError(f"dataset {dataset.name}: files: missing key '{name}', expected its sha256 (found {found})")
    if found != expected:
        raise ValueError(
            f"{path}: sha256 is {found}, expected {expected} as dataset {dataset.name} says; "
            f"remove the file and run `noah fetch {dataset.name}`"
        )
