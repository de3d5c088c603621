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
        shape: Of the largest batch: (images, 3, S, S).
    """

    def __init__(self, number: int, shape: tuple[int, ...]):
        self._places = [np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8) for _ in range(number)]
        self._free = list(range(number))

    def take(self) -> int | None:
        """A place that nobody holds a batch in, or None."""
        return self._free.pop() if self._free else None

    def fill(self, place: int, images: list[torch.Tensor]) -> None:
        """Stack the images there. For the process that loads them."""
        torch.stack(images, out=torch.from_numpy(self._view(place, len(images), images[0].shape[-1])))

    def batch(self, place: int, images: int, size: int) -> torch.Tensor:
        """What was filled in there, (images, 3, size, size).

        The place is free again when this tensor and all views of it are gone.
        """
        view = self._view(place, images, size)
        weakref.finalize(view, self._free.append, place).atexit = False
        return torch.from_numpy(view)

    def _view(self, place: int, images: int, size: int) -> np.ndarray:
        shape = (images, 3, size, size)
        return self._places[place][: math.prod(shape)].reshape(shape)
