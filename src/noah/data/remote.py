"""Shards behind a URL (http, s3, … whatever fsspec opens), read from whole files in a cache.

`{cache}/{sha256 of the manifest}/` holds what `shards/{dataset}/{split}` holds elsewhere. The manifest is read anew at
every start, so that other data behind the same URL gets a folder of its own. Nothing vouches for the manifest but the
URL; the index and the tars have to have the sha256 that it gives. A tar is downloaded when its first sample is read:
training starts at once, and in the order that it always has.
"""

import errno
import fcntl
import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from fsspec.core import url_to_fs

from noah.data.reader import MANIFEST, Shards
from noah.files import sha256_file, write_atomic

ATTEMPTS = 4
FIRST_WAIT_S = 1.0
"""Before the second attempt; doubled before each that follows."""


def is_url(root: Path | str) -> bool:
    return "://" in str(root)


def remote_shards(url: str, cache: Path) -> Shards:
    """The shards of the split behind `url`, which ends in `{dataset}/{split}`.

    Args:
        url: May hold a user, a password or a query; no message shows them.
        cache: Folder of what was downloaded, for any number of splits, runs and processes.

    Raises:
        ValueError: The manifest or the index does not exist, or is wrong.
        OSError: It could not be had, however often it was tried.
    """
    folder = remote_manifest(url, cache).parent
    return Shards(folder, RemoteFiles(url, folder).fetch)


def below(url: str, *names: str) -> str:
    """The URL of what lies below the path of `url`, whose query stays where it belongs."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path="/".join((parts.path.rstrip("/"), *names))))


def remote_manifest(url: str, cache: Path) -> Path:
    """manifest.json of the split behind `url`, in the folder of the cache that its sha256 names."""
    cache.mkdir(parents=True, exist_ok=True)
    data = _retried(url, MANIFEST, lambda: _read(below(url, MANIFEST)))
    path = cache / hashlib.sha256(data).hexdigest() / MANIFEST
    if not path.is_file():
        with write_atomic(path) as temporary:
            temporary.write_bytes(data)
    return path


@dataclass(frozen=True)
class RemoteFiles:
    """The files of a split, brought from `url` to `folder`."""

    url: str
    folder: Path

    def fetch(self, name: str, sha256: str) -> None:
        """Download a file unless it is there; processes that want the same one wait for the first.

        Raises:
            ValueError: It does not exist, or has another sha256, however often it was tried.
            OSError: It could not be had, however often it was tried.
        """
        path = self.folder / name
        if path.is_file():
            return
        with open(path.with_name(f".{name}.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                for leftover in self.folder.glob(f".{name}.*.tmp"):  # of a process that was killed
                    leftover.unlink()
                _retried(self.url, name, lambda: self._download(path, sha256))

    def _download(self, path: Path, sha256: str) -> None:
        with write_atomic(path) as temporary:
            files, remote = _open(below(self.url, path.name))
            files.get_file(remote, str(temporary))
            found = sha256_file(temporary)
            if found != sha256:
                raise _WrongBytes(f"sha256: got {found}, expected {sha256}")


class _WrongBytes(Exception):
    """Its message is ours, and may be shown."""


def public(url: str) -> str:
    """The URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _open(url: str):
    """fsspec's file system and the path in it. A transfer may last while bytes arrive."""
    options = {}
    if urlsplit(url).scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, connect=30, sock_read=60)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    return url_to_fs(url, use_listings_cache=False, **options)


def _read(url: str) -> bytes:
    files, path = _open(url)
    return files.cat_file(path)


def _retried(url: str, name: str, attempt):
    """What `attempt` returns, tried a few times; its own words may hold secrets of the URL and are not repeated."""
    where = f"{public(url).rstrip('/')}/{name}"
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except ImportError as error:
            raise ValueError(f"{where}: {error}") from None
        except FileNotFoundError:
            raise ValueError(f"{where}: no such file") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            problem, wrong = _said(error), isinstance(error, _WrongBytes)
        if number < ATTEMPTS:
            print(f"noah: {where}: {problem}; trying again", file=sys.stderr)
            time.sleep(FIRST_WAIT_S * 2 ** (number - 1))
    problem = f"{problem}; tried {ATTEMPTS} times"
    if wrong:
        raise ValueError(f"{where}: {problem}")
    # As a disk that fails: it says nothing about the run, which may be started again.
    raise OSError(errno.EIO, problem, where)


def _said(error: Exception) -> str:
    if isinstance(error, _WrongBytes):
        return str(error)
    status = getattr(error, "status", None)
    return f"{type(error).__name__}{f', HTTP status {status}' if status else ''}"
