"""One shard: a tar of plain files `{key}.cls` (or `.json`) and `{key}.jpg`, in this order, sample after sample.

`.cls` holds the class number, `.json` of a multi-label dataset `{"labels": [0, 7]}`. Headers are POSIX ustar (IEEE Std
1003.1-1988), which GNU tar and webdataset read; owner, rights and time are always the same, so that equal samples give
equal bytes.
"""

import hashlib
import json
import os
import re
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from noah.data.checks import expect
from noah.data.images import FIELDS

LABEL_FIELDS = ("cls", "json")
_MEMBER = re.compile(rf"(\d+)\.({'|'.join((*LABEL_FIELDS, *sorted(set(FIELDS.values()))))})")
_BLOCK = 512
_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 135), slice(148, 156)
"""Where a header holds a member's name, its size (11 octal digits), and the sum of its bytes."""
_ZEROS = bytes(2 * _BLOCK)


def _blank_header() -> bytes:
    """Of an empty file without a name; its sum is left as spaces, which is how it counts itself."""
    header = bytearray(_BLOCK)
    header[100:108] = b"0000444\0"  # rights
    header[108:116] = header[116:124] = b"0000000\0"  # owner and group
    header[135:148] = b"\0" + b"00000000000" + b"\0"  # end of the size; time: 1970
    header[_SUM] = b" " * 8
    header[156:157] = tarfile.REGTYPE
    header[257:265] = b"ustar\x0000"
    header[265:269] = header[297:301] = b"noah"  # names of owner and group
    return bytes(header)


_BLANK, _BLANK_SUM = _blank_header(), sum(_blank_header())


class Member(NamedTuple):
    """A file inside a tar: its payload is bytes `offset` to `offset + size` of the tar."""

    key: str
    field: str
    offset: int
    size: int


class TarWriter:
    """Writes samples to an empty file, one system call each, and knows their bytes' sha256 without reading them again.

    Attributes:
        bytes: Written so far.
    """

    def __init__(self, file: BinaryIO):
        self.bytes = 0
        self._descriptor = file.fileno()
        self._sha256 = hashlib.sha256()

    def write(self, key: str, label: int | list[int], field: str, image: bytes) -> Member:
        """Add a sample; `label` is the class number, or a list of them (multi-label).

        Returns:
            Where the image lies.
        """
        label_field, content = _label(label)
        front = b"".join(
            (
                _header(f"{key}.{label_field}", len(content)),
                content,
                _padding(len(content)),
                _header(f"{key}.{field}", len(image)),
            )
        )
        offset = self.bytes + len(front)
        self._write(front, image, _padding(len(image)))
        return Member(key, field, offset, len(image))

    def close(self) -> str:
        """Write the end mark. Returns the sha256 of the whole tar."""
        self._write(_ZEROS)
        return self._sha256.hexdigest()

    def _write(self, *parts: bytes) -> None:
        for part in parts:
            self._sha256.update(part)
        size = sum(map(len, parts))
        written = os.writev(self._descriptor, parts)
        if written < size:  # a disk that is nearly full, or more than 2 GB at once
            rest = memoryview(b"".join(parts))
            while written < size:
                written += os.write(self._descriptor, rest[written:])
        self.bytes += size


def _label(label: int | list[int]) -> tuple[str, bytes]:
    if isinstance(label, int):
        return "cls", str(label).encode()
    return "json", json.dumps({"labels": label}).encode()


def _header(name: str, size: int) -> bytes:
    encoded, octal = name.encode(), b"%011o" % size
    assert len(encoded) <= 100, name
    assert len(octal) == 11, size  # 8 GiB at most
    header = bytearray(_BLANK)
    header[: len(encoded)] = encoded
    header[_SIZE] = octal
    header[_SUM] = b"%06o\0 " % (_BLANK_SUM + sum(encoded) + sum(octal))
    return bytes(header)


def _padding(size: int) -> bytes:
    return _ZEROS[: -size % _BLOCK]


def check_tar(path: Path, rows: list[dict]) -> None:
    """Read a shard back and compare it with rows of the index: key, offset, size, and label or labels.

    Raises:
        ValueError: The tar holds anything else than these samples in this order.
    """
    found = members(path)
    expect(path, "members", len(found), 2 * len(rows))
    with open(path, "rb") as file:
        for row, label, image in zip(rows, found[::2], found[1::2], strict=True):
            key = row["key"]
            field, content = _label(row["label"] if "label" in row else row["labels"])
            expect(path, "key", label.key, key)
            expect(path, f"first field of key {key}", label.field, field)
            expect(path, f"key of the image of {key}", image.key, key)
            if image.field in LABEL_FIELDS:
                raise ValueError(f"{path}: second field of key {key}: got '{image.field}', expected an image")
            file.seek(label.offset)
            found_content = file.read(label.size).decode("ascii", "replace")
            expect(path, f"label of key {key}", found_content, content.decode())
            expect(path, f"offset of key {key}, as the index has it", row["offset"], image.offset)
            expect(path, f"size of key {key}, as the index has it", row["size"], image.size)


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
