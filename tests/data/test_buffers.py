import gc

import pytest
import torch

from noah.data.buffers import Buffers
from noah.data.loader import eval_loader, train_loader
from noah.data.reader import Shards

SHAPE = (4, 3, 5, 5)


@pytest.fixture
def shards(train_folder):
    return Shards(train_folder)


def images(number):
    return [torch.full(SHAPE[1:], i, dtype=torch.uint8) for i in range(number)]


def test_a_batch_is_what_was_filled_in_a_smaller_one_too():
    buffers = Buffers(1, SHAPE)
    place = buffers.take()
    buffers.fill(place, images(3))
    assert torch.equal(buffers.batch(place, 3, 5), torch.stack(images(3)))
    buffers.fill(place, [image[:, :2, :2] for image in images(4)])
    assert torch.equal(buffers.batch(place, 4, 2), torch.stack(images(4))[..., :2, :2])


def test_a_place_is_free_again_when_the_batch_and_its_views_are_gone():
    buffers = Buffers(2, SHAPE)
    first, second = buffers.take(), buffers.take()
    assert (sorted((first, second)), buffers.take()) == ([0, 1], None)
    batch = buffers.batch(first, 4, 5)
    view = batch[1:]
    del batch
    gc.collect()
    assert buffers.take() is None
    del view
    assert buffers.take() == first


def test_batches_that_are_kept_stay_what_they_were(shards, run):
    few = run.model_copy(update={"recipe": run.recipe.model_copy(update={"batch": 4})})
    for loader in (
        lambda workers: train_loader(shards, few, 0, workers=workers),
        lambda workers: eval_loader(shards, run.recipe, run.dataset, batch=4, workers=workers),
    ):
        kept = list(loader(2))
        assert len(kept) > 2 * 2 + 2  # more than there are places
        for (seen, *_), (expected, *_) in zip(kept, loader(0), strict=True):
            assert torch.equal(seen, expected)


def test_batches_that_are_let_go_come_in_few_places(shards, run):
    addresses = []
    for images, *_ in eval_loader(shards, run.recipe, run.dataset, batch=4, workers=2):
        assert not images.is_shared()  # as torch would send it, at an address that may come again by chance
        addresses.append(images.data_ptr())
    assert len(set(addresses)) <= 2 * 2 + 2 < len(addresses)


def test_two_epochs_of_one_loader_at_once_do_not_share_places(shards, run):
    loader = eval_loader(shards, run.recipe, run.dataset, batch=4, workers=1)
    expected = [images for images, *_ in eval_loader(shards, run.recipe, run.dataset, batch=4)]
    for (one, *_), (other, *_), images in zip(loader, loader, expected, strict=True):
        assert torch.equal(one, images)
        assert torch.equal(other, images)
        assert one.data_ptr() != other.data_ptr()
