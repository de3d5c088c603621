"""Being told to stop, without losing what was done."""

import signal
import threading


class Interrupted(Exception):
    """The run was told to stop; its state is saved. `signum` is the signal that told it."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}; the state is saved and the next start resumes it")
        self.signum = signum


class StopSignals:
    """Notes SIGTERM and SIGINT instead of dying of them, so that the loop can stop between two steps."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self):
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_):
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum, _frame):
        self.received = signum
