"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv 1708.07747, MIT licence): 70,000 grayscale images of 28x28 pixels.

The raw files are the four idx files, decompressed; roles of a split: `images` and `labels`. The YAML has the hashes of
the decompressed files, for the same data is published in gzips that differ: Debian's leave out the name and time that
the original ones hold.
"""

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from noah.config import Dataset
from noah.config.dataset import RawFile, SplitName
from noah.data.containers import Entry
from noah.data.download import download
from noah.data.order import source_index
from noah.data.raw import check_raw, decompress, raw_paths
from noah.data.sources.scenes import Objects, png

ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
"""Of the authors (github.com/zalandoresearch/fashion-mnist)."""
PUBLISHED_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
"""Of the gzips at ADDRESS, from the authors' README."""
PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package has the gzips."""


def fetch(dataset: Dataset) -> list[Path]:
    """Put the idx files in place: from gzips that lie in the root, from Debian's package, or from the authors.

    Debian's package is taken where it is installed; where it is not, `apt-get download` gets it without installing it.

    Raises:
        ValueError: None of these has the files, or a file is damaged or another one.
    """
    root = dataset.root_path
    names = sorted({name for split in dataset.splits for name in raw_paths(dataset, split, "images", "labels")})
    missing = [name for name in names if not (root / name).is_file()]
    packed = [f"{name}.gz" for name in missing if not (root / f"{name}.gz").is_file()]
    if packed and not (_copied(INSTALLED, packed, root) or _copied_from_package(packed, root)):
        _download(packed, root)
    for name in missing:
        decompress(root / f"{name}.gz")
    check_raw(dataset, *names)
    return [root / name for name in names]


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """The images of a split; names are those of the file and the image's number in it.

    Raises:
        ValueError: A raw file is missing, altered or no idx file.
    """
    raw = load_images(dataset, split)
    entries = (
        Entry(f"{raw.container}/{i:05d}", raw.container, raw.images.offset + i * raw.image_bytes, raw.image_bytes)
        for i in range(len(raw.labels))
    )
    return source_index(dataset, split, zip(entries, raw.labels.tolist(), strict=True))


def open_source(dataset: Dataset, split: SplitName) -> Callable[[dict], tuple[str, bytes]]:
    """A function from a row of `index` to ("png", bytes of the grayscale image).

    Raises:
        ValueError: As `index`.
    """
    raw = load_images(dataset, split)
    return lambda row: ("png", png(raw.images[raw.number(row["offset"])]))


def load_images(dataset: Dataset, split: SplitName) -> Objects:
    """The raw images behind a split, mapped, with their labels.

    Raises:
        ValueError: As `index`.
    """
    paths = raw_paths(dataset, split, "images", "labels")
    check_raw(dataset, *paths)
    images, labels = (read_idx(dataset.root_path / path) for path in paths)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"{dataset.root_path / paths[0]}: got images {images.shape} for labels {labels.shape}, "
            "expected (S, height, width) for (S,)"
        )
    return Objects(paths[0], images, np.asarray(labels), 255)


def read_idx(path: Path) -> np.memmap:
    """An idx file of bytes, mapped: two zeros, 8 for uint8, the number of dimensions, their big-endian sizes, the data.

    Raises:
        ValueError: It is another kind of file, or has another length than its header says.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic[:3] != b"\x00\x00\x08" or not magic[3:]:
            raise ValueError(
                f"{path}: begins with {magic.hex()}, expected 000008 and a number of dimensions (idx file)"
            )
        sizes = file.read(4 * magic[3])
    shape = struct.unpack(f">{len(sizes) // 4}I", sizes) if len(sizes) == 4 * magic[3] else ()
    expected = 4 + len(sizes) + int(np.prod(shape, dtype=np.int64))
    if not shape or path.stat().st_size != expected:
        raise ValueError(f"{path}: has {path.stat().st_size:,} bytes, expected {expected:,} as its header says")
    return np.memmap(path, np.uint8, "r", 4 + len(sizes), shape)


def _copied(folder: Path, names: list[str], root: Path) -> bool:
    """Whether the folder had all of them."""
    if not all((folder / name).is_file() for name in names):
        return False
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(folder / name, root / name)
    return True


def _copied_from_package(names: list[str], root: Path) -> bool:
    """Whether apt could download the package, and it had all of them; nothing is installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    with tempfile.TemporaryDirectory() as folder, suppress(subprocess.CalledProcessError, StopIteration):
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True, capture_output=True)
        package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg", "-x", package, folder], check=True, capture_output=True)
        return _copied(Path(folder) / INSTALLED.relative_to("/"), names, root)
    return False


def _download(names: list[str], root: Path) -> None:
    try:
        for name in names:
            if name not in PUBLISHED_MD5:
                raise ValueError(f"{name} is none of {', '.join(PUBLISHED_MD5)}")
            download(f"{ADDRESS}/{name}", root / name, RawFile(md5=PUBLISHED_MD5[name]))
    except ValueError as error:
        raise ValueError(
            f"{root}: missing {', '.join(names)}: put them there, or install Debian's {PACKAGE}; {error}"
        ) from None
