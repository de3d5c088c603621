"""A folder to work in, beside one that nobody may touch, and an eye on what Python does meanwhile."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ALLOWED = (ValueError, FloatingPointError, OSError)
"""What `noah` turns into one line (noah.cli.main)."""
LIMIT_S = 30
ROOM_BYTES = 4 << 30
"""Of address space, over what the process has: an absurd length is an error before it takes the machine down."""
FORBIDDEN = frozenset(
    [
        *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pty.spawn"),
        *("socket.connect", "socket.bind", "pickle.find_class"),
    ]
)
WRITES = {
    **dict.fromkeys(("os.remove", "os.rmdir"), ((0, 1),)),
    **dict.fromkeys(("os.mkdir", "os.chmod"), ((0, 2),)),
    **dict.fromkeys(("os.rename", "os.link"), ((0, 2), (1, 3))),
    "os.symlink": ((1, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, None),),
}
"""Audit events that change a file, and which of their arguments are its name and the folder that it is relative to."""
_THROUGH_LINKS = ("open", "os.chmod", "os.chown", "os.utime", "os.truncate")


class Watch:
    """Notes what code does that only hostile files could make it do. One for the process: audit hooks stay for ever."""

    def __init__(self):
        self.seen: list[str] = []
        self.writable: tuple[Path, ...] | None = None
        """None: nobody is watched."""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.writable is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and _for_writing(arguments):
            self._check(event, arguments[0])
        elif event in WRITES:
            for name, folder in WRITES[event]:
                self._check(event, arguments[name], -1 if folder is None else arguments[folder])

    def _check(self, event: str, path: Any, folder: int = -1) -> None:
        if isinstance(path, int) or path is None:
            return
        start = os.getcwd() if folder == -1 else os.readlink(f"/proc/self/fd/{folder}")
        named = os.path.join(start, os.fsdecode(path))
        followed = event in _THROUGH_LINKS
        real = Path(os.path.realpath(named) if followed else os.path.realpath(os.path.dirname(named)))
        real = real if followed else real / os.path.basename(named)
        inside = any(real == folder or folder in real.parents for folder in self.writable)
        if not inside and "__pycache__" not in real.parts and real != Path(os.devnull):
            self.seen.append(f"{event} of {real}")


def _for_writing(arguments: tuple) -> bool:
    _, mode, flags = arguments
    by_mode = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    return by_mode or bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


WATCH = Watch()


class Box:
    """`work`, the current folder, with `out` that may be written to, and `outside` beside it."""

    def __init__(self, root: Path):
        self.work, self.outside = root / "work", root / "outside"
        self.work.mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "keep.txt").write_text("not yours")
        self.inputs = 0

    def attempt(self, act: Callable[[], Any], writable: tuple[str, ...] = ("out",)) -> str | None:
        """Do it; the message where it was refused.

        Raises:
            AssertionError: It broke in another way, without a word, ran or wrote what it must not, or took too long.
        """
        self.inputs += 1
        before, refused = self._listed(writable), None
        with _limits(), self._watched(writable):
            try:
                act()
            except ALLOWED as error:
                refused = _message(error)
        assert refused is None or refused.strip(), "refused without a message"
        assert not WATCH.seen, WATCH.seen
        after = self._listed(writable)
        assert after == before, f"changed: {sorted(set(after.items()) ^ set(before.items()))[:4]}"
        return refused

    @contextmanager
    def _watched(self, writable: tuple[str, ...]) -> Iterator[None]:
        WATCH.seen.clear()
        WATCH.writable = tuple((self.work / name).resolve() for name in writable)
        try:
            yield
        finally:
            WATCH.writable = None

    def _listed(self, writable: tuple[str, ...]) -> dict[str, tuple]:
        """Everything but what may be written: path to kind, size and time."""
        found, kept = {}, {self.work / name for name in writable}
        for folder, folders, files in os.walk(self.work.parent):
            folders[:] = [name for name in folders if Path(folder, name) not in kept]
            for name in (*folders, *files):
                path = os.path.join(folder, name)
                if Path(path) in kept:
                    continue
                status = os.lstat(path)
                is_file = name in files
                found[path] = (status.st_mode, status.st_size, status.st_mtime_ns) if is_file else (status.st_mode,)
        return found


def _message(error: Exception) -> str:
    """As `noah.cli.main` prints it."""
    if isinstance(error, OSError) and not isinstance(error, ValueError):
        return f"{error.filename or 'input/output'}: {error.strerror or error}"
    return " ".join(str(error).split())


@contextmanager
def _limits() -> Iterator[None]:
    """No more than `LIMIT_S` and `ROOM_BYTES`."""

    def too_long(*_):
        raise AssertionError(f"took more than {LIMIT_S} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    previous = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
