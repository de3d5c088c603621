"""Raw files as their publishers pack them: the gzip around a tar, and single files inside an archive."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from noah.config import Dataset
from noah.data.raw import check_raw, decompress

ARCHIVES = (".zip", ".tar.gz", ".tar")
# zipfile: an encrypted member is a RuntimeError.
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)


def unpack(dataset: Dataset, paths: Iterable[str], download: str, *, others: Iterable[str] = ()) -> list[Path]:
    """Check raw files and write the plain tar beside each .tar.gz, once: a gzip cannot be read from the middle.

    Args:
        dataset: The dataset.
        paths: Below its root. A .tar.gz whose plain tar is there need not be there itself.
        download: Says where the files come from; ends the message.
        others: Files that are only checked.

    Returns:
        The files that an index can be made of.

    Raises:
        ValueError: Lists all files that are missing or wrong; or there is no room for a plain tar.
    """
    root, paths, others = dataset.root_path, list(dict.fromkeys(paths)), list(dict.fromkeys(others))
    needed = [path for path in paths if (root / path).exists() or not (root / _plain(path)).is_file()]
    try:
        check_raw(dataset, *others, *needed)
    except ValueError as error:
        raise ValueError(f"{error}; {download}") from None
    packed = [path for path in needed if path.endswith(".gz")]
    return [root / path for path in others] + [
        decompress(root / path) if path in packed else root / _plain(path) for path in paths
    ]


def unpacked(dataset: Dataset, path: str) -> str:
    """What an index reads of a raw file: the plain tar of a .tar.gz, anything else as it is.

    Raises:
        ValueError: The plain tar is not there yet.
    """
    root = dataset.root_path
    if path.endswith(".gz") and (root / path).exists() and not (root / _plain(path)).is_file():
        raise ValueError(
            f"{root / path}: got a gzip, which cannot be read from the middle; "
            f"run `noah fetch {dataset.name}` once, it writes {_plain(path)} beside it"
        )
    return _plain(path) if (root / _plain(path)).is_file() else path


def split_member(path: str) -> tuple[str, str | None]:
    """`x.zip/folder/y.json` -> ("x.zip", "folder/y.json"); a path through no archive -> (path, None)."""
    parts = path.split("/")
    for number, part in enumerate(parts[:-1], start=1):
        if part.endswith(ARCHIVES):
            return "/".join(parts[:number]), "/".join(parts[number:])
    return path, None


def read_packed(root: Path, path: str) -> bytes:
    """A whole file, which may lie inside a .zip, .tar.gz or .tar as `split_member` has it.

    Raises:
        ValueError: It is not there, or its archive is damaged.
    """
    archive, member = split_member(path)
    try:
        if member is None:
            return (root / path).read_bytes()
        return _from_zip(root / archive, member) if archive.endswith(".zip") else _from_tar(root / archive, member)
    except _BROKEN as error:
        raise ValueError(f"{root / archive}: not a whole archive: {error}") from None
    except OSError as error:
        raise ValueError(f"{root / archive}: cannot be read: {error.strerror or error}") from None


def _plain(path: str) -> str:
    return path.removesuffix(".gz")


def _from_zip(path: Path, member: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if member not in names:
            raise _not_inside(path, member, names)
        return archive.read(member)


def _from_tar(path: Path, member: str) -> bytes:
    with tarfile.open(path, "r:gz" if path.suffix == ".gz" else "r:") as archive:
        names = []
        for info in archive:
            names.append(info.name.removeprefix("./"))
            if names[-1] == member and info.isreg():
                return archive.extractfile(info).read()
    raise _not_inside(path, member, names)


def _not_inside(path: Path, member: str, names: list[str]) -> ValueError:
    found = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return ValueError(f"{path}: no member '{member}', found {found or 'nothing'}")
