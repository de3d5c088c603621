import json
from collections import Counter

import numpy as np
import pytest
import torch

from noah.benchmark.loader import BATCH, loader_arms, orders, read_pattern, recipe_arms, run
from noah.benchmark.photos import make_photos, make_shards, photo_dataset
from noah.data.images import decode_tensor
from noah.data.reader import Shards

IMAGES = BATCH


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    photos = make_photos(folder, IMAGES)
    full, small = photo_dataset(folder, "full"), photo_dataset(folder, "small", short_side=64)
    return photos, full, small, {dataset.name: Shards(make_shards(dataset)) for dataset in (full, small)}


def test_shards_hold_the_images_that_the_others_read(built):
    photos, _, _, shards = built
    full, small = shards["full"], shards["small"]
    assert Counter(full.read(i) for i in range(IMAGES)) == Counter(path.read_bytes() for path in photos)
    assert full.keys.tolist() == small.keys.tolist()
    assert full.labels.tolist() == small.labels.tolist()
    shrunk, whole = (decode_tensor(some.read(0), "").float() for some in (small, full))
    assert min(shrunk.shape[1:]) == 64
    averaged = torch.nn.functional.interpolate(whole[None], shrunk.shape[1:], mode="area")[0]
    assert (shrunk - averaged).abs().mean() < 10


def test_every_loader_goes_through_an_epoch(built):
    _, full, small, shards = built
    seen = {name: arm() for name, arm in loader_arms(full, small, shards, workers=0).items()}
    assert set(seen.values()) == {IMAGES}


def test_every_part_of_the_recipe_runs(built):
    _, full, _, shards = built
    assert all(arm() == BATCH for arm in recipe_arms(full, shards["full"]).values())


def test_windows_read_each_tar_once_and_a_full_shuffle_does_not():
    windowed, shuffled = (read_pattern(*order, cached=8) for order in orders(32, 16, window=4).values())
    assert windowed["reads"] == shuffled["reads"] == 32 * 16
    assert (windowed["loads"], windowed["fetched"]) == (32, 1.0)
    assert shuffled["loads"] > 3 * windowed["loads"]


def test_reading_in_order_seeks_once_per_tar():
    shards, places = np.divmod(np.arange(12), 4)
    pattern = read_pattern(shards, places, cached=1)
    assert (pattern["loads"], pattern["seeks"]) == (3, 3)


def test_the_benchmark_runs_and_reports_every_arm(tmp_path):
    table = run(tmp_path, images=IMAGES, rounds=1, workers=0)
    works = json.loads((tmp_path / "loader.json").read_text())["works"]
    assert all(f"| {work} | {arm} |" in table for work, arms in works.items() for arm in arms)
    assert (tmp_path / "loader.md").is_file()
    assert json.loads((tmp_path / "reads.json").read_text())["windows of 16 shards"]["loads"] == 512


def test_a_number_of_images_that_is_no_multiple_of_the_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images is 65, expected a multiple of 64"):
        run(tmp_path, images=65)
