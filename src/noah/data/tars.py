"""One shard: a tar of plain files `{key}.cls` and `{key}.png` (or `.jpg`), in this order, sample after sample."""

import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from webdataset import TarWriter

from noah.data.checks import expect
from noah.data.images import decode
from noah.files import write_atomic

IMAGE_FIELDS = ("png", "jpg")
_MEMBER = re.compile(rf"(\d+)\.({'|'.join(IMAGE_FIELDS)}|cls)")


class Member(NamedTuple):
    """A file inside a tar: its payload is bytes `offset` to `offset + size` of the tar."""

    key: str
    field: str
    offset: int
    size: int


def write_tar(path: Path, rows: list[dict], read: Callable[[dict], tuple[str, bytes]], num_classes: int) -> None:
    """Write the samples of source index `rows`; the bytes depend on nothing else. `path` never holds half a tar.

    Args:
        read: A source's function from a row to (extension, encoded image).

    Raises:
        ValueError: An image that does not decode or a label out of range, named by container, offset and key.
    """
    with (
        write_atomic(path) as temporary,
        open(temporary, "wb") as file,
        TarWriter(file, user="noah", group="noah", mode=0o444, mtime=0, encoder=False) as tar,
    ):
        for row in rows:
            where = f"{row['container']}: offset {row['offset']}, key {row['key']}"
            if not 0 <= row["label"] < num_classes:
                raise ValueError(f"{where}: label is {row['label']}, expected 0 to {num_classes - 1}")
            field, data = read(row)
            assert field in IMAGE_FIELDS, field
            decode(data, where)
            tar.write({"__key__": row["key"], field: data, "cls": str(row["label"]).encode()})


def index_tar(path: Path, rows: list[dict], shard: int) -> pa.Table:
    """Where each image lies, read back from the tar of source index `rows`.

    Returns:
        A table of key, shard (int32), offset and size of the image in the tar (int64), label (int32).

    Raises:
        ValueError: The tar holds anything else than these samples in this order.
    """
    found = members(path)
    expect(path, "members", len(found), 2 * len(rows))
    images = []
    with open(path, "rb") as file:
        for row, label, image in zip(rows, found[::2], found[1::2], strict=True):
            key = row["key"]
            expect(path, "key", label.key, key)
            expect(path, f"first field of key {key}", label.field, "cls")
            expect(path, f"key of the image of {key}", image.key, key)
            file.seek(label.offset)
            expect(path, f"label of key {key}", file.read(label.size).decode("ascii", "replace"), str(row["label"]))
            images.append(image)
    return pa.table(
        {
            "key": pa.array([row["key"] for row in rows], pa.string()),
            "shard": pa.array([shard] * len(rows), pa.int32()),
            "offset": pa.array([image.offset for image in images], pa.int64()),
            "size": pa.array([image.size for image in images], pa.int64()),
            "label": pa.array([row["label"] for row in rows], pa.int32()),
        }
    )


def members(path: Path) -> list[Member]:
    """What a shard holds. Only plain files named `{digits}.{field}` pass: no folders, links, devices or paths.

    Raises:
        ValueError: Any other member, or no tar.
    """
    found = []
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                match = _MEMBER.fullmatch(info.name)
                if info.type != tarfile.REGTYPE or not match:
                    raise ValueError(
                        f"{path}: member {info.name!r} is not allowed, expected only plain files such as 00000000.png"
                    )
                found.append(Member(*match.groups(), info.offset_data, info.size))
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a tar: {error}") from None
    return found
