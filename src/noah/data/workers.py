"""The processes that load images: a job that is told to stop keeps them, and none of them outlives or hangs it."""

import atexit
import multiprocessing.util  # Ends its processes when Python ends, but later than what is registered after it.
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

_STOPPING = {signal.SIGTERM, signal.SIGINT}
_STARTED: weakref.WeakSet[multiprocessing.Process] = weakref.WeakSet()


@contextmanager
def starting_workers() -> Iterator[None]:
    """Around the start of workers, which are forks.

    A job that is cancelled signals all its processes, and a worker that died of it would take the trainer along: they
    begin with these signals held back, until `start_worker` drops them. A worker that dies at once is heard of when all
    are there.
    """
    others = set(multiprocessing.active_children())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOPPING, signal.SIGCHLD})
    try:
        yield
    finally:
        _STARTED.update(set(multiprocessing.active_children()) - others)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(_worker: int) -> None:
    """For DataLoader's `worker_init_fn`: stopping is left to the trainer, which ends its step and saves."""
    for signum in _STOPPING:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_STOPPING, signal.SIGCHLD})


def lost_worker(error: Exception) -> str | None:
    """A line for the user if `error` says that a worker was killed, which comes wherever the trainer just is."""
    if isinstance(error, EOFError):  # of the pipe from it
        said = "A process that loads images is gone"
    elif isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error):
        said = " ".join(str(error).split()).removesuffix(".")
    else:
        return None
    return f"{said}. If that was for too much memory: fewer workers, or a larger job."


@atexit.register
def _kill_what_is_left() -> None:
    # After an error some may still wait for work. Python would send SIGTERM, which they ignore, and wait forever.
    left = [process for process in _STARTED if process.is_alive()]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise an error about each
    for process in left:
        process.kill()
        process.join()
