"""Raw images where they lie: plain files, or members of a tar (also of tars inside it) or a zip, never unpacked."""

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from noah.data.checks import expect_file
from noah.data.images import BadImage
from noah.data.open_files import OpenFiles

MAX_BYTES = 1 << 29
"""Of one raw image, inflated: more than MAX_PIXELS take in any format."""
_TAR_BLOCK = 512
_ZIP_HEADER, _ZIP_ENCRYPTED = 30, 1
"""Bytes of a zip member's local header before its name, and the bit of its flags that means a password."""
_ZIP_METHODS = {zipfile.ZIP_STORED: False, zipfile.ZIP_DEFLATED: True}


class Entry(NamedTuple):
    """One raw file: bytes `offset` to `offset + size` of `container`, inflated after reading where `deflated`."""

    name: str
    """Inside the folder, tar or zip that was listed; inside a nested tar `outer.tar/name`."""
    container: str
    """A file, relative to the dataset's root."""
    offset: int
    size: int
    deflated: bool = False


def list_entries(root: Path, relative: str) -> Iterator[Entry]:
    """All plain files of a folder, a .tar (tars inside are opened too) or a .zip; hidden files are left out.

    A folder is walked in sorted order, through links; a tar or zip is listed in its own. Links and devices inside an
    archive are left out, and a member's path is only a name: nothing is ever unpacked.

    Args:
        root: Of the dataset.
        relative: The folder or archive below it.

    Raises:
        ValueError: It is missing, damaged, cut short, compressed as a whole, or has a member that this cannot read.
    """
    path = root / relative
    if path.is_dir():
        yield from _folder(root, path)
    elif path.suffix == ".zip":
        yield from _zip(path, relative)
    elif path.suffix == ".tar":
        expect_file(path)
        with open(path, "rb") as file:
            yield from _tar(file, relative, "", 0, path.stat().st_size)
    else:
        found = "this file" if path.exists() else "nothing"
        raise ValueError(f"{path}: got {found}, expected a folder, a .tar or a .zip")


def _folder(root: Path, path: Path) -> Iterator[Entry]:
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(path, followlinks=True, onerror=_raise):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            raise ValueError(f"{folder}: is a folder that {path} holds already, expected no two links to one folder")
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        in_path, in_root = (os.path.relpath(folder, start) for start in (path, root))
        for name in sorted(name for name in files if not _hidden(name)):
            try:
                size = os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # a dangling link: an image of zero bytes
                size = 0
            yield Entry(_joined(in_path, name), _joined(in_root, name), 0, size)


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _raise(error: OSError) -> None:
    raise error


def _tar(file, container: str, prefix: str, start: int, end: int) -> Iterator[Entry]:
    where = f"{file.name}{f' member {prefix[:-1]}' if prefix else ''}"
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None and info.offset < end:
                tar.members.clear()  # else it keeps an object for each of millions of members
                after = info.offset_data + info.size
                if after > end:
                    raise ValueError(f"{where}: cut short inside member {info.name!r}: download it again")
                if not info.isreg() or _hidden(info.name):
                    continue
                if info.issparse():
                    raise ValueError(f"{where}: member {info.name!r} is sparse, expected plain files")
                name = prefix + info.name.removeprefix("./")
                if info.name.endswith(".tar"):
                    yield from _tar(file, container, f"{name}/", info.offset_data, after)
                else:
                    yield Entry(name, container, info.offset_data, info.size)
            # tarfile takes a broken header for the end.
            file.seek(tar.offset)
            if tar.offset >= end or file.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
                raise ValueError(f"{where}: has no end mark at byte {tar.offset}: cut short or damaged")
    except tarfile.TarError as error:
        raise ValueError(f"{where}: not a whole plain tar: {error}") from None


def _zip(path: Path, container: str) -> Iterator[Entry]:
    expect_file(path)
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for info in archive.infolist():
                if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16) or _hidden(info.filename):
                    continue
                if info.compress_type not in _ZIP_METHODS or info.flag_bits & _ZIP_ENCRYPTED:
                    raise ValueError(f"{path}: member {info.filename!r} is neither stored nor deflated, or encrypted")
                file.seek(info.header_offset)
                header = file.read(_ZIP_HEADER)
                if len(header) < _ZIP_HEADER or header[:4] != b"PK\3\4":
                    raise ValueError(f"{path}: member {info.filename!r} has no header where the directory says")
                # The local header has lengths of its own: its extra field may differ from the directory's.
                skipped = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
                offset = info.header_offset + _ZIP_HEADER + skipped
                yield Entry(info.filename, container, offset, info.compress_size, _ZIP_METHODS[info.compress_type])
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: not a whole zip: {error}") from None


def _hidden(name: str) -> bool:
    parts = Path(name).parts
    return "__MACOSX" in parts or any(part.startswith(".") and part not in (".", "..") for part in parts)


class Reader:
    """Reads entries by position; keeps files open, for one container often holds very many."""

    def __init__(self, root: Path):
        self.root = root
        self._files = OpenFiles()

    def read(self, row: dict) -> bytes:
        """The content of one raw file.

        Args:
            row: Of a source index, or an entry as a dict: container, offset, size, `deflated` where the container is a
                zip, and key or name.

        Raises:
            BadImage: It is absurdly large, its container ends early, or the bytes do not inflate.
            OSError: The container cannot be read, which says nothing about the image.
        """
        named = f"key {row['key']}" if "key" in row else row["name"]
        where = f"{self.root / row['container']}: offset {row['offset']}, {named}"
        if row["size"] == 0:
            return b""
        if row["size"] > MAX_BYTES:
            raise BadImage(where, f"has {row['size']:,} bytes, expected at most {MAX_BYTES:,}")
        descriptor = self._files.descriptor(row["container"], self.root.joinpath)
        data = os.pread(descriptor, row["size"], row["offset"])
        if len(data) != row["size"]:
            raise BadImage(where, f"got {len(data)} bytes, expected {row['size']}: the file is cut short")
        return _inflated(data, where) if row.get("deflated") else data


def _inflated(data: bytes, where: str) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise BadImage(where, f"does not inflate: {error}") from None
    if not inflater.eof:
        found = f"has more than {MAX_BYTES:,} bytes" if inflater.unconsumed_tail else "ends early"
        raise BadImage(where, f"does not inflate: it {found}")
    return inflated
