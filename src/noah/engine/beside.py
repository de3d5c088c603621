"""Work that a training does not wait for, such as the writing of a checkpoint: one piece at a time, in a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Beside:
    """Runs one call beside the program. As a context it ends when the call has ended."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, "beside")  # starts no thread before there is work
        self._work: Future | None = None

    def start(self, call: Callable[[], None]) -> None:
        """Begin; waits for the call before, and raises what that raised."""
        self.wait()
        self._work = self._pool.submit(call)

    def check(self) -> None:
        """Raise what the call raised, if it has ended."""
        if self._work and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Until the call has ended; raises what it raised."""
        work, self._work = self._work, None
        if work:
            work.result()

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        if not error:
            self.wait()
        self._pool.shutdown(wait=True)
