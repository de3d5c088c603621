"""Raw files of a dataset: where they are, whether they are whole, and unpacking the compression of an archive once."""

import gzip
import hashlib
import shutil
import zlib
from pathlib import Path

from noah.config import Dataset
from noah.config.dataset import RawFile, SplitName
from noah.files import read_mapping, write_atomic, write_json

REMEMBERED = Path("state") / "raw.json"
"""Size and time of raw files whose hash was found right, so that 140 GB are hashed once and not for every split."""


def raw_paths(
    dataset: Dataset, split: SplitName, *roles: str, optional: tuple[str, ...] = ()
) -> tuple[str | None, ...]:
    """What the split's `raw` says for each role, relative to the root; for a minival cut from train, train's.

    Args:
        dataset: The dataset.
        split: Its split.
        roles: Have to be given.
        optional: Come after `roles`; None where they are not given.

    Raises:
        ValueError: A role is missing, or another is given, or a path leads out of the root.
    """
    split = dataset.raw_split(split)
    raw = dataset.splits[split].raw
    where = f"dataset {dataset.name}: splits.{split}.raw"
    needs = f"source {dataset.source} needs {', '.join(roles)}"
    needs += f" and takes {', '.join(optional)}" if optional else ""
    for role in roles:
        if role not in raw:
            raise ValueError(f"{where}: missing key '{role}'; {needs}")
    for role, path in raw.items():
        if role not in roles + optional:
            raise ValueError(f"{where}: unknown key '{role}'; {needs}")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError(f"{where}.{role}: got '{path}', expected a path below root")
    return tuple(raw.get(role) for role in roles + optional)


def check_raw(dataset: Dataset, *needed: str, remembered: Path = REMEMBERED) -> None:
    """Compare raw files with the dataset's `files`: all that is wrong is named in one message.

    Args:
        dataset: The dataset.
        needed: Files or folders below the root, which have to exist; those that `files` knows are compared too.
        remembered: Where hashes that were right are noted.

    Raises:
        ValueError: Lists what is missing, has another size, or another hash.
    """
    root = dataset.root_path
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder, expected the raw data of dataset {dataset.name} (its `root`)")
    known = read_mapping(remembered) if remembered.is_file() else {}
    problems, checked = [], {}
    for name in needed:
        path = root / name
        if not path.exists():
            problems.append(f"{name}: no such file")
        elif name in dataset.files and path.is_file():
            problem = _problem(path, dataset.files[name], known, checked)
            problems += [f"{name}: {problem}"] if problem else []
    if checked:
        write_json(remembered, {**known, **checked})
    if problems:
        raise ValueError(f"{root}: raw files of dataset {dataset.name}: {'; '.join(problems)}")


def _problem(path: Path, expected: str | RawFile, known: dict, checked: dict) -> str | None:
    if isinstance(expected, str):
        expected = RawFile(sha256=expected)
    status = path.stat()
    if expected.bytes and status.st_size != expected.bytes:
        return f"has {status.st_size:,} bytes, expected {expected.bytes:,}: half downloaded, or another file"
    algorithm = "sha256" if expected.sha256 else "md5"
    digest = expected.sha256 or expected.md5
    seen = [digest, status.st_size, status.st_mtime_ns]
    if digest is None or known.get(str(path.resolve())) == seen:
        return None
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest:
        return f"{algorithm} is {found}, expected {digest}"
    checked[str(path.resolve())] = seen
    return None


def decompress(path: Path) -> Path:
    """`x.tar.gz` to `x.tar` (or `x.gz` to `x`) beside it, once: a gzip cannot be read from the middle.

    Returns:
        The decompressed file; one that is there and newer than the compressed one is left alone.

    Raises:
        ValueError: There is no room for it, or it is no gzip or cut short.
    """
    out = path.with_suffix("")
    if out.is_file() and out.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        return out
    for leftover in out.parent.glob(f".{out.name}.*.tmp"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    try:
        with gzip.open(path) as packed, write_atomic(out) as temporary, open(temporary, "wb") as file:
            shutil.copyfileobj(packed, file, 1 << 22)
    except (EOFError, OSError, zlib.error) as error:  # BadGzipFile is an OSError
        raise ValueError(f"{path}: cannot be decompressed to {out.name}: {error}") from None
    return out
