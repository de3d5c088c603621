"""Disks that fill up and folders that turn read-only while `noah` works."""

import ctypes
import errno
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from robustness.targets import RUN

from noah import cli

KEY = "/".join(RUN.parts[3:])
STAGES = {
    "index": "index tiny test",
    "shard": "shard tiny train --job 0",
    "manifest": "manifest tiny train",
    "train": f"train {KEY} --study tiny --out {RUN} --device cpu",
    "score": f"score {RUN}",
    "plan": "plan tiny --save",
    "collect": "collect tiny",
    "table": "table tiny",
    "figures": "figures tiny",
    "export": f"export {RUN} --to safetensors --out results/exported/model.safetensors",
}
"""Whatever writes, but `fetch`, which downloads, and `track`, which has a test of its own."""
SLOW = ("train", "plan", "figures", "export")
"""Seconds each time."""
SMALL = ("score", "plan")
"""What they write has less than a kilobyte."""
_CLOCKS = ("history.csv", "provenance.json")
"""Outputs that hold times."""


def noah(command: str, capsys) -> tuple[int, str]:
    """Exit code and stderr of a command, in this process."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["noah", *command.split()])
        try:
            cli.main()
            code = 0
        except SystemExit as done:
            code = done.code or 0
    return code, capsys.readouterr().err


def forget_that_it_is_done(stage: str) -> None:
    """What is whole is left alone: make the stage work anew, from its start, over its old files."""
    if stage == "shard":
        Path("shards/tiny/train/jobs/00000.json").unlink(missing_ok=True)
        shutil.rmtree("shards/tiny/train/jobs/00000.parts", ignore_errors=True)
    for path in Path("state").iterdir() if stage == "train" else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def written(*folders: str) -> dict[str, bytes]:
    """Everything but clocks, locks and logs."""
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in paths if path.name not in _CLOCKS and ".lock" not in path.name}


def leftovers() -> list[Path]:
    return [path for folder in ("shards", "results", "state") for path in Path(folder).rglob("*.tmp")]


@contextmanager
def at_write(number: int, strike: Callable[[], None]) -> Iterator[list[int]]:
    """Something happens when a file is synced for the `number`-th time (from 1): every file of ours is, at its end.

    Yields a list of one number: how often files were synced.
    """
    calls, fsync = [0], os.fsync

    def struck(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == number:
            strike()
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", struck)
        yield calls


def no_space() -> None:
    """What a network file system says: late, when the file is synced."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """The kernel refuses every write behind that place, whichever library writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_right_to_override() -> Iterator[None]:
    """Root writes into read-only folders too: lay the capability CAP_DAC_OVERRIDE down for a while."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    kept = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, kept) == 0
    less = (ctypes.c_uint32 * 6)(*kept)
    less[0] &= ~(1 << 1)
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, kept) == 0


def make_read_only(*folders: str) -> None:
    for path in _folders(*folders):
        path.chmod(0o555)


def make_writable(*folders: str) -> None:
    for path in _folders(*folders):
        path.chmod(0o755)


def _folders(*names: str) -> list[Path]:
    return [path for name in names for path in (Path(name), *Path(name).rglob("*")) if path.is_dir()]
