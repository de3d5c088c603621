"""Images that cannot be used: listed by each shard job, merged by the manifest."""

import csv
from pathlib import Path
from typing import NamedTuple

from noah.config import Dataset
from noah.config.dataset import SplitName
from noah.data.checks import expect
from noah.files import write_atomic


class Bad(NamedTuple):
    """One such image."""

    path: str
    """Below the dataset's root; inside an archive `archive.tar/name`."""
    reason: str
    key: str


def raw_path(row: dict) -> str:
    """Where the image of a row of the source index comes from."""
    name, container = row.get("name") or "", row["container"]
    if name.startswith(f"{container}/"):
        return name
    return container if container.endswith(name) else f"{container}/{name}"


def write_bad(path: Path, images: list[Bad]) -> None:
    """A CSV with a header, also when there is none."""
    with write_atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([Bad._fields, *images])


def read_bad(path: Path) -> list[Bad]:
    """ValueError names the file when it is missing or another table."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a list of bad images, perhaps an empty one")
    with open(path, newline="", encoding="utf-8") as file:
        try:
            header, *rows = list(csv.reader(file)) or [[]]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not CSV in UTF-8: {error}") from None
    expect(path, "columns", header, list(Bad._fields))
    for number, row in enumerate(rows, start=2):
        expect(path, f"fields of row {number}", len(row), len(Bad._fields))
    return [Bad(*row) for row in rows]


def check_share(dataset: Dataset, split: SplitName, images: list[Bad], samples: int, path: Path) -> float:
    """The share of bad images among `samples`.

    Raises:
        ValueError: It is above `allow_bad`; `path` is the list that the message names.
    """
    share = len(images) / samples
    if share > dataset.allow_bad:
        raise ValueError(
            f"{path}: {len(images):,} of the {samples:,} images of {dataset.name} {split} are bad ({share:.3%}), "
            f"expected at most allow_bad, {dataset.allow_bad:.3%}; first: {images[0].path}: {images[0].reason}. Repair "
            f"the raw data and remove {path.parent}, or raise allow_bad of the dataset"
        )
    return share
