"""Scenes in the manner of cluttered MNIST (Mnih et al., arXiv 1406.6247), from any source of small grayscale images.

A scene has one object, or with several also several labels, at random places and scales, and pieces of other objects as
clutter. All of it is drawn from (seed, split, key): it depends on no other scene.
"""

import io
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from noah.config import Dataset
from noah.config.dataset import SplitName

SPLIT_NUMBER = {"test": 0, "minival": 1, "train": 2}
"""Enters the seeds; also the order in which splits take their objects: another size of train changes no other split."""
PARTITION, ORDER, COMPOSE, COUNT = range(1, 5)
"""What a stream of random numbers is for: the first word of its seed."""


class Objects(NamedTuple):
    """Raw images, from which splits take theirs."""

    container: str
    """The file that holds them, relative to the dataset's root."""
    images: np.memmap
    """uint8 (S, side, side)."""
    labels: np.ndarray
    """uint8 (S,)."""
    brightest: int
    """What white is in `images`."""

    @property
    def image_bytes(self) -> int:
        return self.images[0].nbytes

    def pixels(self, number: int) -> np.ndarray:
        """Image `number` with values up to 255, uint8 (side, side)."""
        return np.round(self.images[number] * (255 / self.brightest)).astype(np.uint8)

    def number(self, offset: int) -> int:
        """Of the image that lies at this offset of the container, or -1."""
        number, rest = divmod(offset - self.images.offset, self.image_bytes)
        return -1 if rest else number


def partition(dataset: Dataset, objects: Objects, sharing: Collection[SplitName]) -> dict[SplitName, np.ndarray]:
    """Which objects stand behind each split: disjoint, and each class in each split by its share of the whole.

    Args:
        dataset: Its splits say how many `source_images` they want.
        objects: What is divided.
        sharing: The splits that it is divided among.

    Raises:
        ValueError: The splits want more than there is.
    """
    labels = objects.labels
    asked = {split: dataset.splits[split].source_images for split in SPLIT_NUMBER if split in sharing}
    if sum(asked.values()) > len(labels):
        raise ValueError(
            f"dataset {dataset.name}: splits.*.source_images are {asked}, {sum(asked.values())} in all, "
            f"expected at most the {len(labels)} images of {objects.container}"
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


def index_scenes(dataset: Dataset, split: SplitName, objects: Objects, members: np.ndarray) -> pa.Table:
    """The scenes of a split: each names its objects, and every object of the split takes its turn.

    Args:
        dataset: The dataset.
        split: Its split.
        objects: The raw images.
        members: Numbers of those that this split may use.

    Returns:
        A table of `samples` rows; scene k has key k, so the seeded order is the order of the keys. Columns key,
        container, offset and size (of the first object), and label; multi-label: objects (their numbers) and labels.
        And cluster, the numbers of its objects within the container: scenes of one object are no independent images.
        Clutter does not count: pieces of a few pixels, whose label nobody asks for.

    Raises:
        ValueError: The split has too few images.
    """
    fewest, most = dataset.scenes.digits
    if dataset.scenes.clutter and len(members) <= most:
        raise ValueError(
            f"dataset {dataset.name}: splits.{split}.source_images is {len(members)}, expected at least {most + 1} "
            "with clutter"
        )
    samples, seed = dataset.splits[split].samples, [dataset.seed, SPLIT_NUMBER[split]]
    counts = np.random.default_rng([COUNT, *seed]).integers(fewest, most, size=samples, endpoint=True)
    ends = np.cumsum(counts)
    rng = np.random.default_rng([ORDER, *seed])
    rounds = [rng.permutation(members) for _ in range(-(-ends[-1] // len(members)))]
    chosen = np.concatenate(rounds)[: ends[-1]].astype(np.int64)
    first = chosen[ends - counts]
    if dataset.multi_label:
        own = np.split(chosen, ends[:-1])
        columns = {
            "objects": pa.array([numbers.tolist() for numbers in own], pa.list_(pa.int32())),
            "labels": pa.array([np.unique(objects.labels[n]).tolist() for n in own], pa.list_(pa.int32())),
        }
    else:
        columns = {"label": objects.labels[first].astype(np.int32)}
    return pa.table({**raw_columns(objects, first), **columns, "cluster": cluster_column(chosen, counts)})


def raw_columns(objects: Objects, first: np.ndarray) -> dict[str, pa.Array]:
    """The columns key, container, offset and size of a composed source index.

    Args:
        objects: The raw images.
        first: int64 (S,), for each sample the number of its first object.
    """
    samples = len(first)
    return {
        "key": pc.utf8_lpad(pa.array(np.arange(samples)).cast(pa.string()), 8, "0"),
        "container": pa.repeat(objects.container, samples),
        "offset": pa.array(objects.images.offset + first * objects.image_bytes),
        "size": pa.repeat(objects.image_bytes, samples),
    }


def cluster_column(chosen: np.ndarray, counts: np.ndarray) -> pa.ListArray:
    """The column cluster of a composed source index, list of string (S,): distinct numbers in their order.

    Args:
        chosen: int (N,), the numbers of the objects, sample after sample.
        counts: int (S,), how many of them each sample has.
    """
    samples = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((chosen, samples))
    chosen, samples = chosen[order], samples[order]
    first = np.ones(len(chosen), bool)
    first[1:] = (np.diff(chosen) != 0) | (np.diff(samples) != 0)
    ends = np.cumsum(np.bincount(samples[first], minlength=len(counts)))
    return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), pa.array(chosen[first]).cast(pa.string()))


def open_scenes(
    dataset: Dataset, split: SplitName, objects: Objects, members: np.ndarray
) -> Callable[[dict], tuple[str, bytes]]:
    """A function from a row of `index_scenes` to ("png", bytes of a grayscale scene), pure in (dataset, split, key).

    The function raises ValueError for a row of another split.
    """

    def read(row: dict) -> tuple[str, bytes]:
        chosen = row["objects"] if dataset.multi_label else [objects.number(row["offset"])]
        if not np.isin(chosen, members).all():
            raise ValueError(f"{row['container']}: offset {row['offset']} of key {row['key']} is no image of {split}")
        rng = np.random.default_rng([COMPOSE, dataset.seed, SPLIT_NUMBER[split], int(row["key"])])
        others = members[~np.isin(members, chosen)]
        return "png", png(_compose(dataset, objects, chosen, others, rng))

    return read


def png(pixels: np.ndarray) -> bytes:
    """A grayscale PNG of uint8 (height, width)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _compose(dataset: Dataset, objects: Objects, chosen: list[int], others: np.ndarray, rng) -> np.ndarray:
    """One scene, uint8 (canvas, canvas). Where objects and clutter overlap, the brighter wins."""
    scenes = dataset.scenes
    canvas = np.zeros((scenes.canvas, scenes.canvas), np.uint8)
    for number, cell in zip(chosen, _cells(canvas, scenes.grid, len(chosen), rng), strict=True):
        _paste(cell, _enlarge(objects.pixels(number), scenes.digit_px, rng), rng)
    for _ in range(scenes.clutter):
        other = _enlarge(objects.pixels(rng.choice(others)), scenes.digit_px, rng)
        side = min(scenes.clutter_px, len(other))
        top, left = rng.integers(len(other) - side + 1, size=2)
        piece = other[top : top + side, left : left + side] * scenes.clutter_strength
        _paste(canvas, piece.astype(np.uint8), rng)
    return canvas


def _enlarge(image: np.ndarray, sides_px: tuple[int, int], rng) -> np.ndarray:
    """uint8 (side, side) -> uint8 (s, s), s drawn from `sides_px`, both ends included."""
    side = int(rng.integers(sides_px[0], sides_px[1] + 1))
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _cells(canvas: np.ndarray, grid: int, count: int, rng) -> list[np.ndarray]:
    """`count` random cells of the grid that divides the canvas, as views of it."""
    if grid == 1:
        return [canvas] * count
    side = len(canvas) // grid
    cells = [divmod(int(cell), grid) for cell in rng.permutation(grid**2)[:count]]
    return [canvas[row * side : (row + 1) * side, column * side : (column + 1) * side] for row, column in cells]


def _paste(canvas: np.ndarray, piece: np.ndarray, rng) -> None:
    top, left = rng.integers(len(canvas) - len(piece) + 1, size=2)
    window = canvas[top : top + len(piece), left : left + len(piece)]
    np.maximum(window, piece, out=window)
