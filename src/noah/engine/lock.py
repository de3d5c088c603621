"""One writer per run, also on a cluster whose nodes die and come back: a lock file that names its holder.

- The holder refreshes the file's time every `HEARTBEAT_S`, from a thread.
- On the same machine a holder whose process is gone is dead, and its lock is taken over at once.
- Elsewhere the heartbeat decides. Who wants the lock watches it: a beat means that the holder lives and the lock is
  refused; no beat for `STALE_S` means that it is dead and its lock is taken over.
- Every holder has a token of its own. A holder that slept (a node thought dead, a stopped process) and wakes up finds
  another token in the file before it writes anything, and stops.

Locks of the file system are not trusted with this, for on network file systems they may hold on one node only, or for
ever. They only keep two processes of one machine from taking a lock over at the same moment.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from noah.files import write_json

HEARTBEAT_S = 15
STALE_S = 180
"""Longer than a network file system keeps a file's times in its cache (60 s), and than one missed beat."""
SETTLE_S = 2
"""After taking over a lock of another machine: whoever did the same in this moment is seen by then."""


class LockLost(ValueError):
    """Another process has taken over this run: nothing may be written any more."""


@dataclass(frozen=True)
class Holder:
    """A process, told apart from every other one on any machine."""

    host: str
    boot: str
    """Of the kernel: changes when the machine is started again."""
    namespace: str
    """In which `pid` counts: containers have their own."""
    pid: int
    started: int
    """Clock ticks since the boot: a process id is used again, with another start."""
    token: str
    """Of this attempt."""

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}"


class Lock:
    """A held lock."""

    def __init__(self, path: Path, holder: Holder):
        self._path, self._holder = path, holder
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def check(self) -> None:
        """To be called right before anything is written.

        Raises:
            LockLost: Another process holds the lock by now, or somebody removed it.
        """
        found = _read(self._path)
        if found != self._holder:
            raise LockLost(
                f"{self._path}: this process ({self._holder}) was taken for dead, and its run is now trained by "
                f"{found or 'nobody: the lock was removed'}; it stops without writing anything"
            )

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a file server that is away for a while
                if _read(self._path) == self._holder:
                    os.utime(self._path)

    def _release(self) -> None:
        self._released.set()
        self._heart.join()
        with _alone(self._path):
            if _read(self._path) == self._holder:
                self._path.unlink()


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[Lock]:
    """Hold a folder against a second writer.

    Raises:
        ValueError: A live process holds it; the message says which. For a holder on another machine that takes up to
            `HEARTBEAT_S`, for one that has just died there up to `STALE_S`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, mine = folder / "lock", _this_process()
    first_beat = None
    while True:
        with _alone(path):
            held, beat = _read(path), _beat_of(path)
            gone = beat is None or _is_gone(held, path, beat, mine)
            if gone:
                write_json(path, asdict(mine))
        if gone:
            break
        # The same machine needs no heartbeat: the process is there. Elsewhere: another beat than at first sight.
        if (held and _same_machine(held, mine)) or first_beat not in (None, beat):
            raise ValueError(f"{folder}: another process trains this run: {held or 'one that is not known'}")
        first_beat = beat
        time.sleep(min(1, STALE_S / 10))
    if held and held.host != mine.host:
        time.sleep(SETTLE_S)
    own = Lock(path, mine)
    try:
        own.check()
        yield own
    finally:
        with contextlib.suppress(OSError):  # of a read-only folder; the next start sees that this process is gone
            own._release()


def _this_process() -> Holder:
    pid = os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Holder(os.uname().nodename, boot, os.readlink("/proc/self/ns/pid"), pid, _start_of(pid), uuid.uuid4().hex)


def _start_of(pid: int) -> int | None:
    """When a process was started, in clock ticks since the boot; None where there is none, or only its body."""
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _same_machine(one: Holder, other: Holder) -> bool:
    """Whether the process ids of both mean the same."""
    return (one.host, one.boot, one.namespace) == (other.host, other.boot, other.namespace)


def _is_gone(held: Holder | None, path: Path, beat: int, mine: Holder) -> bool:
    if held and _same_machine(held, mine):
        return _start_of(held.pid) != held.started
    if held and held.host == mine.host and held.boot != mine.boot:
        return True
    return _now_there(path, mine) - beat > STALE_S * 1e9


def _now_there(path: Path, mine: Holder) -> int:
    """The file server's own time, ns: machines need not agree on theirs."""
    probe = path.with_name(f".{mine.token}.tmp")
    probe.touch()
    try:
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink()


def _beat_of(path: Path) -> int | None:
    """Time of the last heartbeat, ns; None where nobody holds the lock."""
    try:
        with open(path, "rb") as file:  # opened, because that asks a network file system for fresh times
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _read(path: Path) -> Holder | None:
    """Who holds the lock; None where nobody does, or where the file says nothing of the kind."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process of this machine is in here."""
    with open(path.with_name("lock.guard"), "a", encoding="utf-8") as guard:
        with contextlib.suppress(OSError):  # a file system without such locks
            fcntl.flock(guard, fcntl.LOCK_EX)
        yield
