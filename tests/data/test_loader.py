import errno
import hashlib
import multiprocessing
import random
from collections import Counter

import numpy as np
import pytest
import torch

from noah.config import Recipe
from noah.data import reader
from noah.data.images import decode_tensor
from noah.data.loader import eval_loader, train_loader
from noah.data.reader import Shards, epoch_order


@pytest.fixture
def shards(train_folder):
    return Shards(train_folder)


def with_recipe(run, **fields):
    return run.model_copy(update={"recipe": Recipe.model_validate({**run.recipe.model_dump(), **fields})})


def same(batches, others):
    pairs = list(zip(batches, others, strict=True))
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def by_sample(batches):
    return {int(i): image for images, _, indices in batches for image, i in zip(images, indices, strict=True)}


def generator_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_a_batch_holds_images_labels_and_sample_numbers(shards, run):
    batches = list(train_loader(shards, run, 0))
    assert len(batches) == len(train_loader(shards, run, 0)) == 61 // 8
    for images, labels, indices in batches:
        assert (images.shape, images.dtype) == ((8, 3, 16, 16), torch.uint8)
        assert labels.dtype == indices.dtype == torch.int64
        assert labels.tolist() == shards.labels[indices.numpy()].tolist()


def test_order_is_the_epochs_order_with_the_incomplete_batch_dropped(shards, run):
    seen = torch.cat([indices for *_, indices in train_loader(shards, run, 4)]).tolist()
    assert seen == epoch_order(shards.shard_of, run.seed, 4)[:56].tolist()


def test_augmentation_is_pure_in_seed_epoch_and_key(shards, run):
    first = list(train_loader(shards, run, 0))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert same(first, train_loader(shards, run, 0))
    alone = by_sample(train_loader(shards, with_recipe(run, batch=4), 0))
    assert all(torch.equal(image, alone[i]) for i, image in by_sample(first).items())
    for other in (train_loader(shards, run, 1), train_loader(shards, run.model_copy(update={"seed": 4}), 0)):
        images = by_sample(other)
        common = images.keys() & by_sample(first).keys()
        assert sum(not torch.equal(images[i], by_sample(first)[i]) for i in common) > len(common) / 2


def test_augmentation_is_of_the_key_not_of_the_place_in_the_index(shards, run):
    before = by_sample(train_loader(shards, run, 0))
    shards.keys = np.array([f"{int(key) + 1000:08d}" for key in shards.keys])
    after = by_sample(train_loader(shards, run, 0))
    assert before.keys() == after.keys()
    assert sum(not torch.equal(before[i], after[i]) for i in before) > len(before) / 2


def test_an_augmented_batch_is_the_one_that_runs_of_this_version_were_trained_on(shards, run):
    """Its digest: whoever changes it raises RESULTS_VERSION. Nothing is resampled, for processors round differently."""
    moved = with_recipe(run, crop="pad", pad_px=2, flip=True, color_jitter=0, rand_augment=None)
    images, labels, numbers = next(iter(train_loader(shards, moved, 3)))
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16] == "dea25b53ce777430"
    assert labels.tolist() == shards.labels[numbers.numpy()].tolist()


def test_repeats_gives_each_image_that_many_copies_augmented_apart_in_an_epoch_of_the_same_length(shards, run):
    tripled = with_recipe(run, repeats=3)
    batches = list(train_loader(shards, tripled, 2))
    seen = torch.cat([indices for *_, indices in batches]).tolist()
    assert len(seen) == 56
    assert seen == np.repeat(epoch_order(shards.shard_of, run.seed, 2), 3)[:56].tolist()
    copies = torch.cat([images for images, *_ in batches])[:54].unflatten(0, (18, 3))
    assert sum(not torch.equal(copy[0], copy[1]) and not torch.equal(copy[1], copy[2]) for copy in copies) > 15
    labels = torch.cat([labels for _, labels, _ in batches]).tolist()
    assert labels == shards.labels[seen].tolist()


def test_the_first_copy_is_the_image_as_it_is_without_repeats(shards, run):
    alone = by_sample(train_loader(shards, run, 0))
    tripled = list(train_loader(shards, with_recipe(run, repeats=3), 0))
    images, indices = (torch.cat([batch[part] for batch in tripled])[::3] for part in (0, 2))
    assert all(torch.equal(image, alone[int(i)]) for image, i in zip(images, indices, strict=True))


def test_repeats_are_the_same_with_workers_ranks_and_after_a_resume(shards, run):
    tripled = with_recipe(run, repeats=3, micro_batch=2)
    alone = list(train_loader(shards, tripled, 1))
    assert same(alone, train_loader(shards, tripled, 1, workers=2))
    assert same(alone[8:], train_loader(shards, tripled, 1, start_step=2))
    ranks = [list(train_loader(shards, tripled, 1, rank=rank, world_size=2)) for rank in range(2)]
    assert same(alone, [batch for passes in zip(*ranks, strict=True) for batch in passes])


def test_the_number_of_workers_changes_nothing(shards, run):
    assert same(train_loader(shards, run, 0), train_loader(shards, run, 0, workers=2))


def test_loading_in_the_main_process_leaves_its_random_generators_alone(shards, run):
    before = generator_states()
    for _ in train_loader(shards, run, 0):
        assert generator_states() == before
    list(eval_loader(shards, run.recipe, run.dataset))
    assert generator_states() == before


def test_a_resumed_epoch_continues_where_it_stopped(shards, run):
    run = with_recipe(run, micro_batch=4)
    whole = list(train_loader(shards, run, 1))
    assert len(whole) == 14
    assert same(whole[6:], train_loader(shards, run, 1, start_step=3))
    assert list(train_loader(shards, run, 1, start_step=7)) == []


def test_ranks_share_each_optimizer_batch_whatever_the_world_size(shards, run):
    run = with_recipe(run, micro_batch=2)
    alone = list(train_loader(shards, run, 0))
    ranks = [list(train_loader(shards, run, 0, rank=rank, world_size=2)) for rank in range(2)]
    merged = [batch for passes in zip(*ranks, strict=True) for batch in passes]
    assert same(alone, merged)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_deals_every_image_once_in_batches_that_do_not_depend_on_ranks(shards, run, world_size):
    alone = list(eval_loader(shards, run.recipe, run.dataset, batch=10))
    assert [len(labels) for _, labels, _ in alone] == [10] * 6 + [1]
    dealt = [
        list(eval_loader(shards, run.recipe, run.dataset, batch=10, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    counts = Counter(int(i) for batches in dealt for *_, indices in batches for i in indices)
    assert counts == Counter(range(61))
    for rank, batches in enumerate(dealt):
        assert same(alone[rank::world_size], batches)


def test_evaluation_with_workers_is_the_same(shards, run):
    one, two = (eval_loader(shards, run.recipe, run.dataset, batch=16, workers=workers) for workers in (0, 2))
    assert same(one, two)


def test_multi_label_targets_are_zeros_and_ones(shards, run):
    first = shards.labels
    shards.labels = np.eye(10, dtype=np.uint8)[first]
    for _, targets, indices in train_loader(shards, run, 0):
        assert (targets.shape, targets.dtype) == ((8, 10), torch.float32)
        assert targets.argmax(1).tolist() == first[indices.numpy()].tolist()


def test_a_split_smaller_than_one_batch_is_refused(shards, run):
    with pytest.raises(ValueError, match="train: has 61 samples, expected at least one batch of 62"):
        train_loader(shards, with_recipe(run, batch=62), 0)


def test_a_world_size_that_does_not_fit_the_batch_is_refused(shards, run):
    with pytest.raises(ValueError, match="batch is 8, expected a multiple of micro_batch x world size = 8 x 2 = 16"):
        train_loader(shards, run, 0, world_size=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_went_bad_is_named_in_one_line(shards, run, workers):
    path = shards.folder / "tiny-train-000002.tar"
    path.write_bytes(bytes(path.stat().st_size))
    said = r"\A/[^\n]*tiny-train-000002\.tar: offset \d+, key 000000\d\d: does not decode[^\n]*\Z"
    with pytest.raises(ValueError, match=said):
        list(eval_loader(shards, run.recipe, run.dataset, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fails_stays_an_error_of_the_disk(shards, run, workers, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error", "shards/x.tar")

    monkeypatch.setattr(Shards, "read", fail)
    with pytest.raises(OSError, match="Input") as error:
        list(eval_loader(shards, run.recipe, run.dataset, workers=workers))
    assert (error.value.errno, error.value.filename) == (errno.EIO, "shards/x.tar")


@pytest.fixture
def decoded(monkeypatch):
    """Counts what is decoded."""
    seen = []

    def counted(data, where):
        seen.append(where)
        return decode_tensor(data, where)

    monkeypatch.setattr(reader, "decode_tensor", counted)
    return seen


def test_a_small_split_decodes_each_image_once_and_gives_the_same_batches_ever_after(shards, run, decoded):
    epochs = [list(train_loader(shards, run, epoch)) for epoch in (0, 1, 0)]
    assert len(decoded) == len(set(decoded)) <= len(shards)
    assert same(epochs[0], epochs[2])
    assert same(epochs[1], train_loader(Shards(shards.folder), run, 1))


@pytest.mark.parametrize("limit", ["SMALL_BYTES", "KEPT_BYTES"])
def test_a_large_split_keeps_no_images(train_folder, run, decoded, monkeypatch, limit):
    monkeypatch.setattr(reader, limit, 1000)
    shards = Shards(train_folder)
    batches = [list(train_loader(shards, run, 0)) for _ in range(2)]
    assert len(decoded) >= 2 * 56 - 2
    assert same(*batches)


def children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children()}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "fields", [{}, {"repeats": 2}, {"first_size": 8, "epochs": 4}], ids=["plain", "repeats", "grow"]
)
def test_epochs_of_one_loader_are_those_of_a_loader_each_from_the_middle_of_one_too(shards, run, workers, fields):
    run = with_recipe(run, **fields)
    each = [batch for epoch in (1, 2, 3) for batch in train_loader(shards, run, epoch)]
    assert same(each, train_loader(shards, run, 1, epochs=3, workers=workers))
    loader = train_loader(shards, run, 1, epochs=3, start_step=5, workers=workers)
    assert len(loader) == len(each) - 5
    assert same(each[5:], loader)


def test_workers_of_several_epochs_start_once(shards, run):
    before, seen = children(), []
    for _ in train_loader(shards, run, 0, epochs=3, workers=2):
        seen.append(frozenset(children() - before))
    assert len(seen) == 3 * 7
    assert len(set(seen)) == 1
    assert len(seen[0]) == 2


def test_workers_that_shall_stay_look_at_a_split_again(shards, run):
    before = children()
    loader = eval_loader(shards, run.recipe, run.dataset, batch=4, workers=2, persist=True)
    expected = list(eval_loader(shards, run.recipe, run.dataset, batch=4))
    first = children() - before if same(expected, loader) else None
    assert same(expected, loader)
    assert first == children() - before
    assert len(first) == 2
