"""Memory that batches travel in from the processes that load them, used again as soon as nobody holds the batch.

Left to itself torch makes new shared memory for every batch. The system clears each of its pages and maps them once per
process, which takes a fifth as long as decoding and resizing a small photo.
"""

import math
import mmap
import weakref

import numpy as np
import torch


class Buffers:
    """A few places for one uint8 batch each; the processes are forks of the one that made them.

    Args:
        number: Of places.
        shape: Of a batch: (images, 3, S, S).
    """

    def __init__(self, number: int, shape: tuple[int, ...]):
        self._places = [np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape) for _ in range(number)]
        self._free = list(range(number))

    @staticmethod
    def possible() -> bool:
        """With a GPU torch copies batches to pinned memory, in its way."""
        return not torch.cuda.is_available()

    def take(self) -> int | None:
        """A place that nobody holds a batch in, or None."""
        return self._free.pop() if self._free else None

    def fill(self, place: int, images: list[torch.Tensor]) -> None:
        """Stack the images there. For the process that loads them."""
        torch.stack(images, out=torch.from_numpy(self._places[place][: len(images)]))

    def batch(self, place: int, images: int) -> torch.Tensor:
        """What was filled in there. The place is free again when this tensor and all views of it are gone."""
        view = self._places[place][:images]
        weakref.finalize(view, self._free.append, place).atexit = False
        return torch.from_numpy(view)
