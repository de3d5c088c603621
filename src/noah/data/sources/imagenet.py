"""ImageNet-1k (ILSVRC2012; Russakovsky et al., arXiv 1409.0575), from the official archives or from unpacked folders.

Roles of `raw`: `images`, ILSVRC2012_img_train.tar (a tar of class tars, read where it lies), ILSVRC2012_img_val.tar, or
a folder of either; and for validation images that lie in no class folders `devkit`, ILSVRC2012_devkit_t12.tar.gz or the
folder unpacked from it, which says their classes. Classes are WordNet ids (wnids) in sorted order, as torchvision and
timm number them.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from posixpath import basename, dirname

import pyarrow as pa

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.containers import Entry
from noah.data.order import source_index
from noah.data.raw import check_raw, raw_paths
from noah.data.sources.files import open_files as open_source
from noah.data.sources.folder import image_entries, listed

__all__ = ["fetch", "index", "open_source", "validation_wnids"]

DOWNLOADS = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_TRUTH_OF_ANY_YEAR = re.compile(r"ILSVRC\d{4}\w*_validation_ground_truth\.txt")
_WNID = re.compile(r"n\d{8}")
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def fetch(dataset: Dataset) -> list[Path]:
    """Check the raw files; ImageNet gives them only to people who have an account and agree to its terms.

    Raises:
        ValueError: Lists what is missing or wrong, and where it is to be had.
    """
    root = dataset.root_path
    names = dict.fromkeys(name for split in dataset.splits for name in _roles(dataset, split) if name)
    try:
        check_raw(dataset, *names)
    except ValueError as error:
        raise ValueError(f"{error}; ImageNet has them for registered users: {DOWNLOADS}") from None
    return [root / name for name in names]


def index(dataset: Dataset, split: SplitName) -> pa.Table:
    """Every image of the split; an image is named by its file alone, so that archives and folders give one order.

    Raises:
        ValueError: The classes are not sorted, a folder is no class, or the devkit is missing or does not fit.
    """
    if list(dataset.classes) != sorted(dataset.classes):
        raise ValueError(f"dataset {dataset.name}: classes: expected WordNet ids in sorted order")
    images, devkit = _roles(dataset, split)
    check_raw(dataset, images, *([devkit] if devkit else []))
    path = dataset.root_path / images
    entries = list(image_entries(dataset, images))
    wnids = [_folder_wnid(entry.name) for entry in entries]
    loose = [entry for entry, wnid in zip(entries, wnids, strict=True) if wnid is None]
    if loose and (len(loose) < len(entries) or dataset.raw_split(split) == "train"):
        raise ValueError(f"{path}: '{loose[0].name}' lies in no class folder such as n01440764")
    if loose:
        if devkit is None:
            raise ValueError(
                f"{path}: has no class folders, so splits.{split}.raw needs a devkit (as {DEVKIT} from {DOWNLOADS})"
            )
        truth = validation_wnids(dataset.root_path / devkit)
        wnids = [truth[number - 1] for number in _validation_numbers(path, entries, len(truth))]
    numbers = {wnid: number for number, wnid in enumerate(dataset.classes)}
    unknown = sorted(set(wnids) - set(numbers))
    if unknown:
        raise ValueError(f"{path}: {listed(unknown)} no class of dataset {dataset.name}, expected its WordNet ids only")
    named = (entry._replace(name=basename(entry.name)) for entry in entries)
    return source_index(dataset, split, zip(named, (numbers[wnid] for wnid in wnids), strict=True))


def validation_wnids(devkit: Path) -> list[str]:
    """The WordNet id of every validation image, in the order of their numbers.

    Args:
        devkit: ILSVRC2012_devkit_t12.tar.gz, or the folder unpacked from it.

    Raises:
        ValueError: It is damaged, of another year, or its two files do not fit each other.
    """
    files = dict(_devkit_files(devkit))
    for name in (META, TRUTH):
        if name not in files:
            years = sorted(found for found in files if found not in (META, TRUTH))
            other = f" but {years[0]}: a devkit of another year" if years else ""
            raise ValueError(f"{devkit}: has no {name}{other}, expected {DEVKIT}")
    wnids = _leaf_wnids(devkit, files[META])
    found = []
    for line, text in enumerate(files[TRUTH].decode("ascii", "replace").split(), start=1):
        if not text.isdecimal() or int(text) not in wnids:
            raise ValueError(f"{devkit}: {TRUTH}: line {line} is {text!r}, expected an ILSVRC2012_ID of {META}")
        found.append(wnids[int(text)])
    return found


def _roles(dataset: Dataset, split: SplitName) -> tuple[str, str | None]:
    return raw_paths(dataset, split, "images", optional=("devkit",))


def _folder_wnid(name: str) -> str | None:
    """Of `n01440764.tar/x.JPEG` and of `n01440764/x.JPEG`."""
    folder = basename(dirname(name)).removesuffix(".tar")
    return folder if _WNID.fullmatch(folder) else None


def _validation_numbers(path: Path, entries: list[Entry], expected: int) -> list[int]:
    """The number in each file's name; together they are 1 to `expected`."""
    matches = [_VALIDATION.fullmatch(basename(entry.name)) for entry in entries]
    if None in matches:
        raise ValueError(
            f"{path}: '{entries[matches.index(None)].name}', expected ILSVRC2012_val_00000001.JPEG and so on"
        )
    numbers = [int(match[1]) for match in matches]
    if len(numbers) != expected:
        raise ValueError(f"{path}: has {len(numbers):,} images, expected {expected:,}, the lines of {TRUTH}")
    missing = sorted(set(range(1, expected + 1)) - set(numbers))
    if missing:
        raise ValueError(f"{path}: has no ILSVRC2012_val_{missing[0]:08d}.JPEG, one of the {expected:,} of {TRUTH}")
    return numbers


def _devkit_files(devkit: Path) -> Iterator[tuple[str, bytes]]:
    """meta.mat and the validation ground truth of whatever year, wherever they lie in it."""

    def wanted(name: str) -> bool:
        return name == META or _TRUTH_OF_ANY_YEAR.fullmatch(name) is not None

    if devkit.is_dir():
        yield from ((file.name, file.read_bytes()) for file in sorted(devkit.rglob("*")) if wanted(file.name))
        return
    try:
        with tarfile.open(devkit) as tar:
            for info in tar:
                if info.isreg() and wanted(basename(info.name)):
                    yield basename(info.name), tar.extractfile(info).read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{devkit}: not a whole .tar.gz: {error}") from None


def _leaf_wnids(devkit: Path, meta: bytes) -> dict[int, str]:
    """ILSVRC2012_ID to WordNet id of the synsets without children: the others are their ancestors in WordNet."""
    from scipy.io import loadmat  # only needed here
    from scipy.io.matlab import MatReadError

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        columns = [synsets[field] for field in ("ILSVRC2012_ID", "WNID", "num_children")]
    except (
        MatReadError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        OSError,
        NotImplementedError,
        zlib.error,
    ) as error:
        raise ValueError(f"{devkit}: {META}: no synsets of ILSVRC2012 in it: {error}") from None
    return {int(number): str(wnid) for number, wnid, children in zip(*columns, strict=True) if children == 0}
