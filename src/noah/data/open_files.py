"""Files that stay open between reads, and never too many of them."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

OPEN_FILES = 64
"""Held open at once by one reader: four windows of shards, far below the usual limit of 1024."""


class OpenFiles:
    """Keeps the files read last open; a pickle of it holds none."""

    def __init__(self):
        self._files: OrderedDict[object, object] = OrderedDict()

    def descriptor(self, key, path_of: Callable[[object], Path]) -> int:
        """Of the file that belongs to `key`, opened at `path_of(key)` unless it is open. Not to be kept."""
        if key in self._files:
            self._files.move_to_end(key)
        else:
            if len(self._files) == OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[key] = open(path_of(key), "rb", buffering=0)  # noqa: SIM115
        return self._files[key].fileno()

    def __len__(self) -> int:
        return len(self._files)

    def __getstate__(self) -> dict:
        return {"_files": OrderedDict()}
