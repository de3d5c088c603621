"""Fashion-MNIST's four files in small, from the real digits."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
from PIL import Image

FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
FILES["test"] = tuple(name.replace("train", "t10k") for name in FILES["train"])
PARTS = {"train": slice(0, 300), "test": slice(300, 400)}


def idx(array: np.ndarray) -> bytes:
    """The bytes of an idx file of uint8."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_replica(root: Path, digits: Path) -> dict[str, str]:
    """Write the gzips of 300 training and 100 test images of 28x28 pixels; return the sha256 of what is inside."""
    images, labels = np.load(digits / "images.npy"), np.load(digits / "labels.npy")
    large = np.stack([np.asarray(Image.fromarray(image * 15).resize((28, 28))) for image in images[:400]])
    root.mkdir(parents=True, exist_ok=True)
    sums = {}
    for split, names in FILES.items():
        for name, array in zip(names, (large, labels), strict=True):
            data = idx(array[PARTS[split]])
            (root / f"{name}.gz").write_bytes(gzip.compress(data))
            sums[name] = hashlib.sha256(data).hexdigest()
    return sums


def raw_files(split: str) -> dict[str, str]:
    """`raw` of a split."""
    return dict(zip(("images", "labels"), FILES[split], strict=True))
