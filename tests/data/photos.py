"""Real images in several formats, and a user's dataset of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from noah.config import Dataset


def digit(number: int, side: int = 24) -> Image.Image:
    """One of scikit-learn's digits, enlarged, in RGB."""
    pixels = (load_digits().images[number] * 15).astype(np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).convert("RGB")


def photo(width: int = 160, height: int = 120) -> Image.Image:
    """A photograph of China's summer palace that scikit-learn ships, cut and scaled."""
    return Image.fromarray(load_sample_images().images[0]).resize((width, height))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def write_folder(root: Path, images: int = 24) -> None:
    """train/{0,1,2}/*.jpg and test/ of the same: digits in turn."""
    for number in range(images):
        for split, count in (("train", images), ("test", images // 4)):
            path = root / split / str(number % 3) / f"{number:03d}.jpg"
            if number < count:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(digit(number)))


def folder_dataset(root: Path, **fields) -> Dataset:
    """Three classes, four shards of train in two jobs."""
    data = {
        "name": "photos",
        "source": "folder",
        "root": str(root),
        "classes": 3,
        "image_size": 24,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "splits": {
            "train": {"num_shards": 4, "raw": {"images": "train"}},
            "test": {"num_shards": 1, "raw": {"images": "test"}},
        },
        "shards_per_job": 2,
    }
    return Dataset.model_validate({**data, **fields})
