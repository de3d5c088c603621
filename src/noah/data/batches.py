"""Batches of given samples, made in this process or by workers that go on from epoch to epoch."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from noah.data.buffers import Buffers
from noah.data.reader import AUGMENTATION, Shards
from noah.data.transforms import Transform
from noah.data.workers import start_worker, starting_workers

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Images, labels, sample numbers."""
Task = tuple[int, int, int | None]
"""Epoch, number of the batch in it, and the place in the buffers that its images go to, if there are buffers."""


@dataclass(frozen=True)
class Epoch:
    """What a process needs to know to make any batch of an epoch."""

    batches: Sequence[np.ndarray]
    """Of sample * repeats + copy."""
    transform: Transform
    size: int
    """Side of its images."""
    stream: tuple[int, int] | None = None
    """(seed, epoch), where augmentation draws."""
    repeats: int = 1


class Batches(TorchDataset):
    """Item i is a whole batch, so that workers send few large messages and generators are set back once per batch."""

    def __init__(self, shards: Shards, of_epoch: Callable[[int], Epoch]):
        self.shards, self.buffers = shards, None
        self.epoch = functools.lru_cache(maxsize=1)(of_epoch)

    def __getitem__(self, task: Task) -> Batch | Task | Exception:
        if worker := get_worker_info():
            self.shards.sharing = worker.num_workers
        try:
            return self._batch(*task)
        except (ValueError, OSError) as error:
            if get_worker_info() is None:
                raise
            # Handed on as it is, for Loader to raise: torch would make a traceback of its message.
            return error if isinstance(error, OSError) else ValueError(str(error))

    def _batch(self, epoch: int, number: int, place: int | None) -> Batch | Task:
        """A batch; if its images have a place in the buffers, its task, of which the trainer makes one."""
        of = self.epoch(epoch)
        chosen, copies = np.divmod(of.batches[number], of.repeats)
        with _generators_kept():
            images = [self._image(of, i, int(copy)) for i, copy in zip(chosen, copies, strict=True)]
        if place is None:
            return default_collate(images), *self.labels(epoch, number)
        self.buffers.fill(place, images)
        return epoch, number, place

    def labels(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels and sample numbers of a batch."""
        of = self.epoch(epoch)
        chosen = of.batches[number] // of.repeats
        labels = torch.from_numpy(self.shards.labels[chosen])
        return labels.float() if labels.ndim == 2 else labels, torch.from_numpy(chosen)

    def _image(self, of: Epoch, i: int, copy: int) -> torch.Tensor:
        if of.stream is not None:
            _seed_generator(*of.stream, int(self.shards.keys[i]), copy)
        return of.transform(self.shards.pixels(i))


class Tasks:
    """The sampler: what batch to make, and the place for its images that is free at the time when it is asked for."""

    def __init__(self, first_epoch: int, epochs: int, batches: int, start: int = 0):
        """`batches` of each epoch, of which the first one begins at `start`."""
        self.first_epoch, self.epochs, self.batches, self.start = first_epoch, epochs, batches, start
        self.buffers: Buffers | None = None

    def __len__(self) -> int:
        return self.epochs * self.batches - self.start

    def __iter__(self) -> Iterator[Task]:
        buffers = self.buffers
        for place in range(self.start, self.epochs * self.batches):
            epoch, number = divmod(place, self.batches)
            yield self.first_epoch + epoch, number, buffers.take() if buffers else None


class Loader(DataLoader):
    """Errors in the data read the same, whichever process met them; batches of workers are not copied.

    Args:
        held: Batches that the consumer holds at a time. If they are more it gets them, but as torch would send them.
        persist: Whether the workers stay for another iteration.
    """

    def __init__(
        self,
        batches: Batches,
        tasks: Tasks,
        shape: tuple[int, ...],
        workers: int,
        pin_memory: bool,
        held: int = 1,
        persist: bool = False,
    ):
        # Asked for two batches ahead by each worker; one more is being asked for while the consumer holds his.
        # With pinned memory torch copies batches in its way.
        self.places = (2 * workers + held + 1, shape) if workers and not pin_memory else None
        super().__init__(
            batches,
            batch_size=None,
            sampler=tasks,
            num_workers=workers,
            # Their start holds signals back, and what they work on could not be pickled.
            multiprocessing_context="fork" if workers else None,
            # A base seed is drawn even without workers: from a generator of its own, the global one stays untouched.
            generator=torch.Generator().manual_seed(0),
            pin_memory=pin_memory,
            persistent_workers=persist and workers > 0,
            worker_init_fn=start_worker,
        )

    def __iter__(self) -> Iterator[Batch]:
        if self.places and not (self.persistent_workers and self.sampler.buffers):
            self.sampler.buffers = self.dataset.buffers = Buffers(*self.places)
        buffers = self.sampler.buffers
        with starting_workers() if self.num_workers else nullcontext():
            batches = super().__iter__()
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            if isinstance(batch[0], int):
                epoch, number, place = batch
                labels, numbers = self.dataset.labels(epoch, number)
                batch = buffers.batch(place, len(labels), self.dataset.epoch(epoch).size), labels, numbers
            yield batch
            del batch  # its place is free as soon as the consumer lets go of it, too


def _seed_generator(seed: int, epoch: int, key: int, copy: int) -> None:
    # The first copy draws as an image without repeats does.
    further = (copy,) if copy else ()
    # The first two of four words are for nothing any more; the others stay what they were.
    words = np.random.SeedSequence([AUGMENTATION, seed, epoch, key, *further]).generate_state(4)
    # Not torch.manual_seed, which would reset the accelerators' generators as well.
    torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Whatever is drawn inside, the global generators of Python, NumPy and torch go on as before."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
