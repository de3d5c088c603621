"""manifest.json, read strictly."""

from pathlib import Path

from pydantic import Field

from noah.config.dataset import Sha256
from noah.config.files import Strict, parse
from noah.files import read_mapping


class ShardEntry(Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*\.tar$")
    """No folders: a manifest never points outside its own."""
    samples: int = Field(ge=0)
    """0 where every image of the shard is in quarantine."""
    bytes: int = Field(ge=1)
    sha256: Sha256


class Manifest(Strict):
    """What a split holds. Its own sha256 names the data, for it holds those of the index and of every tar."""

    dataset: str
    split: str
    samples: int = Field(ge=1)
    classes: dict[str, int]
    """Images per class, in the order of the class numbers."""
    quarantine_share: float = Field(ge=0, le=1)
    """Of the images of the source index, those that `quarantine.csv` lists and no shard holds."""
    source_sha256: Sha256
    index_sha256: Sha256
    shards: tuple[ShardEntry, ...] = Field(min_length=1)


class JobNote(Strict):
    """What a shard job says when its shards are whole: from what they were made, and the sums of what it wrote."""

    job: int = Field(ge=0)
    source_sha256: Sha256
    spec_sha256: Sha256
    rows_sha256: Sha256
    bad_sha256: Sha256
    shards: tuple[ShardEntry, ...]


def read_note(path: Path) -> dict:
    """The .json of a shard job; ValueError names the first field that is wrong."""
    data = read_mapping(path)
    parse(JobNote, data, path)
    return data


def read_manifest(path: Path) -> dict:
    """The content of a manifest.

    Raises:
        ValueError: It is missing, or names the first field that is wrong.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected the output of `noah manifest`")
    data = read_mapping(path)
    parse(Manifest, data, path)
    return data
