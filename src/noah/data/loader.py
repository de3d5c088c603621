"""From shards to batches, the same ones whatever the number of workers and processes.

Order is a pure function of (seed, epoch, shards), augmentation of (seed, epoch, key, copy). An epoch's order is cut
into optimizer batches of `batch` images and those into forward batches; of each optimizer batch, process r of W takes
the forward batches r, r + W, r + 2W, …, one per accumulation pass.

With repeated augmentation (`recipe.repeats` = R > 1) each image of the order is followed by its R - 1 further copies,
and the epoch ends after as many images as without: it sees the first S / R of S images. The copies are neighbours, so
they share an optimizer batch as in the official code, which deals them to different processes.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from noah.config import Dataset, Recipe, Run
from noah.data.buffers import Buffers
from noah.data.reader import AUGMENTATION, Shards, epoch_order
from noah.data.transforms import Transform, eval_transform, train_transform
from noah.data.workers import start_worker, starting_workers

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Images, labels, sample numbers."""


def train_loader(
    shards: Shards, run: Run, epoch: int, *, start_step: int = 0, rank: int = 0, world_size: int = 1, workers: int = 0
) -> DataLoader:
    """The forward batches of one process in one epoch, the last incomplete optimizer batch dropped.

    Args:
        epoch: 0-based; enters the order and the augmentation.
        start_step: Optimizer steps of this epoch to leave out (resuming).

    Returns:
        An iterable with a length: images uint8 (b, 3, S, S), labels int64 (b,) or of multi-label data float32 (b, M) of
        zeros and ones, sample numbers int64 (b,).

    Raises:
        ValueError: The split is smaller than one batch, or batch is no multiple of micro_batch x world size.
    """
    recipe = run.recipe
    held = 2 * recipe.passes(world_size) - 1
    steps = len(shards) // recipe.batch
    if steps == 0:
        raise ValueError(
            f"{shards.folder}: has {len(shards)} samples, expected at least one batch of {recipe.batch} "
            f"(recipe {run.recipe_name})"
        )
    assert 0 <= start_step <= steps
    assert 0 <= rank < world_size
    order = epoch_order(shards.shard_of, run.seed, epoch)
    order = (order[:, None] * recipe.repeats + np.arange(recipe.repeats)).ravel()[: steps * recipe.batch]
    passes = order.reshape(steps, -1, recipe.forward_batch)[start_step:, rank::world_size]
    batches = list(passes.reshape(-1, recipe.forward_batch))
    transform = train_transform(recipe, run.dataset, epoch)
    size = recipe.train_size(epoch, run.dataset.image_size)
    data = _Batches(shards, batches, transform, (run.seed, epoch), recipe.repeats)
    return _Loader(data, (recipe.forward_batch, 3, size, size), workers, held=held)


def eval_loader(
    shards: Shards,
    recipe: Recipe,
    dataset: Dataset,
    *,
    batch: int = 250,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
) -> DataLoader:
    """All samples in index order, cut into batches of `batch` (the last may be smaller), dealt round-robin to ranks.

    A batch holds the same samples at any world size, so its predictions are the same bits.

    Returns:
        As `train_loader`.
    """
    assert 0 <= rank < world_size
    order = np.arange(len(shards))
    batches = [order[first : first + batch] for first in range(0, len(order), batch)][rank::world_size]
    data = _Batches(shards, batches, eval_transform(recipe, dataset), None)
    return _Loader(data, (batch, 3, dataset.image_size, dataset.image_size), workers)


class _Batches(TorchDataset):
    """Item i is a whole batch, so that workers send few large messages and generators are set back once per batch."""

    def __init__(
        self,
        shards: Shards,
        batches: list[np.ndarray],
        transform: Transform,
        stream: tuple[int, int] | None,
        repeats: int = 1,
    ):
        """`batches` hold sample * repeats + copy; `stream` is (seed, epoch) where augmentation draws."""
        self.shards, self.batches, self.transform = shards, batches, transform
        self.stream, self.repeats = stream, repeats
        self.buffers: Buffers | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, task: tuple[int, int | None]) -> Batch | tuple[int, int] | Exception:
        try:
            return self._batch(*task)
        except (ValueError, OSError) as error:
            if get_worker_info() is None:
                raise
            # Handed on as it is, for _Loader to raise: torch would make a traceback of its message.
            return error if isinstance(error, OSError) else ValueError(str(error))

    def _batch(self, number: int, place: int | None) -> Batch | tuple[int, int]:
        """A batch; if its images have a place in the buffers, number and place, of which the trainer makes one."""
        chosen, copies = np.divmod(self.batches[number], self.repeats)
        with _generators_kept():
            images = [self._image(i, int(copy)) for i, copy in zip(chosen, copies, strict=True)]
        if place is None:
            return default_collate(images), *self.labels(number)
        self.buffers.fill(place, images)
        return number, place

    def labels(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels and sample numbers of a batch."""
        chosen = self.batches[number] // self.repeats
        labels = torch.from_numpy(self.shards.labels[chosen])
        return labels.float() if labels.ndim == 2 else labels, torch.from_numpy(chosen)

    def _image(self, i: int, copy: int) -> torch.Tensor:
        if self.stream is not None:
            _seed_generator(*self.stream, int(self.shards.keys[i]), copy)
        return self.transform(self.shards.pixels(i))


class _Tasks:
    """The sampler: numbers of batches, each with a free place for its images at the time when it is asked for."""

    def __init__(self, number: int):
        self.number = number
        self.buffers: Buffers | None = None

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        buffers = self.buffers
        for number in range(self.number):
            yield number, buffers.take() if buffers else None


class _Loader(DataLoader):
    """Errors in the data read the same, whichever process met them; batches of workers are not copied.

    Args:
        held: Batches that the consumer holds at a time. If they are more it gets them, but as torch would send them.
    """

    def __init__(self, batches: _Batches, shape: tuple[int, ...], workers: int, held: int = 1):
        # Asked for two batches ahead by each worker; one more is being asked for while the consumer holds his.
        self.places = (2 * workers + held + 1, shape) if workers and Buffers.possible() else None
        super().__init__(
            batches,
            batch_size=None,
            sampler=_Tasks(len(batches)),
            num_workers=workers,
            # Their start holds signals back, and what they work on could not be pickled.
            multiprocessing_context="fork" if workers else None,
            # A base seed is drawn even without workers: from a generator of its own, the global one stays untouched.
            generator=torch.Generator().manual_seed(0),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
        )

    def __iter__(self) -> Iterator[Batch]:
        buffers = Buffers(*self.places) if self.places else None
        self.sampler.buffers = self.dataset.buffers = buffers
        with starting_workers() if self.num_workers else nullcontext():
            batches = super().__iter__()
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            if len(batch) == 2:
                number, place = batch
                labels, numbers = self.dataset.labels(number)
                batch = buffers.batch(place, len(labels)), labels, numbers
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
