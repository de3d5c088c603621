"""From shards to batches, the same ones whatever the number of workers and processes.

Order is a pure function of (seed, epoch, shards), augmentation of (seed, epoch, key, copy). An epoch's order is cut
into optimizer batches of `batch` images and those into forward batches; of each optimizer batch, process r of W takes
the forward batches r, r + W, r + 2W, …, one per accumulation pass.

With repeated augmentation (`recipe.repeats` = R > 1) each image of the order is followed by its R - 1 further copies,
and the epoch ends after as many images as without: it sees the first S / R of S images. The copies are neighbours, so
they share an optimizer batch as in the official code, which deals them to different processes.
"""

import numpy as np
from torch.utils.data import DataLoader

from noah.config import Dataset, Recipe, Run
from noah.data.batches import Batches, Epoch, Loader, Tasks
from noah.data.reader import Shards, epoch_order
from noah.data.transforms import eval_transform, train_transform


def train_loader(
    shards: Shards,
    run: Run,
    epoch: int,
    *,
    epochs: int = 1,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """The forward batches of one process, of each epoch the last incomplete optimizer batch dropped.

    Workers start once and go on from one epoch to the next.

    Args:
        epoch: The first one, 0-based; enters the order and the augmentation.
        epochs: How many.
        start_step: Optimizer steps of the first epoch to leave out (resuming).
        workers: Processes that decode.
        pin_memory: For a GPU: batches lie where it can copy them from beside its work.

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

    def of_epoch(number: int) -> Epoch:
        order = epoch_order(shards.shard_of, run.seed, number)
        order = (order[:, None] * recipe.repeats + np.arange(recipe.repeats)).ravel()[: steps * recipe.batch]
        passes = order.reshape(steps, -1, recipe.forward_batch)[:, rank::world_size]
        transform = train_transform(recipe, run.dataset, number)
        size = recipe.train_size(number, run.dataset.image_size)
        return Epoch(passes.reshape(-1, recipe.forward_batch), transform, size, (run.seed, number), recipe.repeats)

    per_step = recipe.passes(world_size)
    tasks = Tasks(epoch, epochs, steps * per_step, start_step * per_step)
    size = max(recipe.train_size(number, run.dataset.image_size) for number in range(epoch, epoch + epochs))
    shape = (recipe.forward_batch, 3, size, size)
    return Loader(Batches(shards, of_epoch), tasks, shape, workers, pin_memory, held=held)


def eval_loader(
    shards: Shards,
    recipe: Recipe,
    dataset: Dataset,
    *,
    batch: int = 250,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    persist: bool = False,
) -> DataLoader:
    """All samples in index order, cut into batches of `batch` (the last may be smaller), dealt round-robin to ranks.

    A batch holds the same samples at any world size, so its predictions are the same bits. With `persist` the workers
    stay for the next iteration, which then begins when this one has ended.

    Returns:
        As `train_loader`.
    """
    assert 0 <= rank < world_size
    order = np.arange(len(shards))
    batches = [order[first : first + batch] for first in range(0, len(order), batch)][rank::world_size]
    size = dataset.image_size
    epoch = Epoch(batches, eval_transform(recipe, dataset), size)
    tasks = Tasks(0, 1, len(batches))
    return Loader(Batches(shards, lambda _: epoch), tasks, (batch, 3, size, size), workers, pin_memory, persist=persist)
