"""The processes that load images: a job that is told to stop keeps them, and none of them outlives or hangs it."""

import atexit
import multiprocessing.util  # Ends its processes when Python ends, but later than what is registered after it.
import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = {signal.SIGTERM, signal.SIGINT}


@contextmanager
def stopping_waits() -> Iterator[None]:
    """Around the start of workers, which begin with the same signals held back, until `start_worker` drops them.

    A job that is cancelled signals all its processes, and a worker that died of it would take the trainer along.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(_worker: int) -> None:
    """For DataLoader's `worker_init_fn`: stopping is left to the trainer, which ends its step and saves."""
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def lost_worker(error: Exception) -> str | None:
    """A line for the user if `error` is torch's about a killed worker, which it raises wherever the trainer just is."""
    if not (isinstance(error, RuntimeError) and "DataLoader worker" in str(error)):
        return None
    said = " ".join(str(error).split()).removesuffix(".")
    return f"{said}. If that was for too much memory: fewer workers, or a larger job."


@atexit.register
def _kill_what_is_left() -> None:
    # After an error some may still wait for work. Python would send SIGTERM, which they ignore, and wait forever.
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
