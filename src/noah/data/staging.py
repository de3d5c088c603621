"""Copies of a split on a disk of the node, shared by all its processes and removed by the last of them.

`{target}/noah-{user id}/{sha256 of the manifest}/` holds the manifest, the index and the tars. manifest.json is copied
last and says that all is there. Whoever joins or leaves holds `{sha256}.lock` alone; whoever reads the copy shares a
lock on the file `users` in it. The system lets go of both when a process ends, however it ends.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from noah.data.checks import expect_file
from noah.data.manifest import read_manifest
from noah.data.reader import INDEX, MANIFEST
from noah.files import sha256_file, write_atomic

MARGIN_BYTES = 2**30
"""What a copy leaves free on the disk."""
USERS = "users"


def stage_folder(text: str) -> Path:
    """The folder that `text` names, its environment variables filled in.

    Raises:
        ValueError: One of them is not set.
    """
    path = os.path.expanduser(os.path.expandvars(text))
    if "$" in path:
        raise ValueError(f"--stage-to is '{text}', expected its environment variables to be set")
    return Path(path)


@contextmanager
def staged(folder: Path, target: Path) -> Iterator[Path]:
    """The folder to read a split from: a copy below `target`, or `folder` itself where there is no room.

    Every process of a node calls this; the first one copies, and the others wait for it. The copy is compared with the
    sha256 of the manifest.

    Args:
        folder: Holds manifest.json, index.parquet and the tars.
        target: A folder on a disk of this node; made where it does not exist.

    Raises:
        ValueError: A file of `folder` is missing or is not what the manifest says.
    """
    copy = target / f"noah-{os.getuid()}" / _manifest_sha256(folder)
    copy.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(other for other in copy.parent.iterdir() if other.is_dir() and other != copy)
    with _alone(copy):
        users = _join(copy) if _copied(folder, copy) else None
    if users is None:
        yield folder
        return
    try:
        yield copy
    finally:
        with _alone(copy):
            _leave(copy, users)


def _manifest_sha256(folder: Path) -> str:
    """Names the copy; the manifest is checked first."""
    read_manifest(folder / MANIFEST)
    return sha256_file(folder / MANIFEST)


def _copied(folder: Path, copy: Path) -> bool:
    """Make the copy whole; False, and nothing is left of it, where it has no room."""
    if (copy / MANIFEST).is_file():
        return True
    manifest = read_manifest(folder / MANIFEST)
    files = [(INDEX, manifest["index_sha256"]), *((shard["name"], shard["sha256"]) for shard in manifest["shards"])]
    files.append((MANIFEST, copy.name))
    for name, _ in files:
        expect_file(folder / name)
    shutil.rmtree(copy, ignore_errors=True)  # of a process that was killed while it copied
    needed, disk = sum((folder / name).stat().st_size for name, _ in files), os.statvfs(copy.parent)
    free = disk.f_bavail * disk.f_frsize - MARGIN_BYTES
    problem = f"{needed / 1e9:.2f} GB, and {max(free, 0) / 1e9:.2f} GB are free (with a margin)"
    if needed <= free:
        try:
            for name, sha256 in files:
                with write_atomic(copy / name) as temporary:
                    shutil.copyfile(folder / name, temporary)
                    if sha256_file(temporary) != sha256:
                        expect_file(folder / name, sha256=sha256)
                        raise OSError(None, "what was written reads back otherwise", str(copy / name))
            return True
        except OSError as error:
            problem = error.strerror
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise
        shutil.rmtree(copy, ignore_errors=True)
    print(f"noah: {folder}: not staged to {copy.parent}: {problem}; read from where it is", file=sys.stderr)
    return False


def _join(copy: Path) -> int:
    """A descriptor whose shared lock says that this process reads the copy."""
    users = os.open(copy / USERS, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    return users


def _leave(copy: Path, users: int) -> None:
    """Give up the lock, and remove the copy where nobody else has one."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(copy, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(users)


def _remove_abandoned(copies: Iterable[Path]) -> None:
    """Those whose last user was killed before it could remove them."""
    for copy in list(copies):
        with suppress(BlockingIOError), _alone(copy, fcntl.LOCK_NB):
            _leave(copy, _join(copy))


@contextmanager
def _alone(copy: Path, flags: int = 0) -> Iterator[None]:
    """Hold the copy's lock; whoever lets go of it without a copy removes its file too."""
    path = copy.with_suffix(".lock")
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | flags)
        except BlockingIOError:
            os.close(lock)
            raise
        if _is_still(path, lock):
            break
        os.close(lock)
    try:
        yield
    finally:
        if not copy.exists():
            path.unlink()
        os.close(lock)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the open file still has that name: while we waited its owner may have removed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
