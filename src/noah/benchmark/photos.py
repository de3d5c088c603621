"""Many different JPEGs with real content, as large as ImageNet's: parts of the two photographs in scikit-learn."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from noah.config import Dataset
from noah.data.shards import index_split, write_job, write_manifest

CLASSES = ("china", "flower")
WIDTH_PX, HEIGHT_PX, QUALITY = 500, 375, 97
"""At this quality of JPEG a photo has 97 KB on average; ImageNet's have 110."""


def make_photos(folder: Path, number: int) -> list[Path]:
    """Write {folder}/photos/{class}/{key}.jpg, the same ones every time.

    Returns:
        The paths, in order of their keys.
    """
    rng = np.random.default_rng(0)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    paths = []
    for key in range(number):
        label = key % len(CLASSES)
        original = originals[label]
        width = int(WIDTH_PX * rng.uniform(0.85, 1))
        height = width * HEIGHT_PX // WIDTH_PX
        left, top = rng.integers(original.width - width + 1), rng.integers(original.height - height + 1)
        box = (left, top, left + width, top + height)
        photo = original.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.BICUBIC, box=box)
        if rng.random() < 0.5:
            photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path = folder / "photos" / CLASSES[label] / f"{key:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, quality=QUALITY)
        paths.append(path)
    return paths


def photo_dataset(folder: Path, name: str, *, num_shards: int = 4, short_side: int | None = None) -> Dataset:
    """The photos as a dataset of source `folder`, one shard a job, shrunk to `short_side` px where that is given."""
    split = {"num_shards": num_shards, "raw": {"images": "photos"}}
    return Dataset(
        name=name,
        source="folder",
        root=str(folder),
        classes=CLASSES,
        image_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        shards_per_job=1,
        reencode={"short_side": short_side} if short_side else None,
        splits={"train": split, "test": split},
    )


def make_shards(dataset: Dataset) -> Path:
    """The folder with the shards of split train, made by the pipeline itself."""
    folder = dataset.root_path / dataset.name
    index_split(dataset, "train", folder)
    for job in range(dataset.num_jobs("train")):
        write_job(dataset, "train", job, folder)
    write_manifest(dataset, "train", folder)
    return folder
