import io

import numpy as np
import pyarrow as pa
import pytest
from digits_builder import build, changed
from PIL import Image
from tests_support import REPOSITORY

from noah.config import Dataset, load_dataset
from noah.data.sources import digits_numbers
from noah.data.verify import verify


@pytest.fixture
def numbers(raw) -> Dataset:
    splits = {
        "train": {"num_shards": 3, "samples": 3000, "source_images": 1000},
        "test": {"num_shards": 1, "samples": 50, "source_images": 300},
    }
    return changed(load_dataset("numbers", REPOSITORY / "config"), root=str(raw), splits=splits)


def rows_of(dataset, split):
    return digits_numbers.index(dataset, split).to_pylist()


def test_the_digits_of_an_image_are_those_of_its_class(numbers, raw):
    labels = np.load(raw / "labels.npy")
    for row in rows_of(numbers, "train"):
        assert "".join(map(str, labels[row["objects"]])) == f"{row['label']:03d}"


def test_an_image_is_its_three_digits_side_by_side(numbers, raw):
    images = np.load(raw / "images.npy")
    read = digits_numbers.open_source(numbers, "test")
    for row in rows_of(numbers, "test"):
        field, data = read(row)
        image = Image.open(io.BytesIO(data))
        assert (field, image.mode, image.size) == ("png", "L", (24, 8))
        expected = np.hstack(images[row["objects"]]) * (255 / 16)
        assert np.array_equal(np.asarray(image), np.round(expected).astype(np.uint8))


def test_classes_have_the_same_share_in_a_mixed_order(numbers):
    labels = digits_numbers.index(numbers, "train")["label"].to_numpy()
    assert (np.bincount(labels, minlength=1000) == 3).all()
    assert len(set(labels[:100])) > 80


def test_splits_share_no_digit(numbers):
    used = {split: {d for row in rows_of(numbers, split) for d in row["objects"]} for split in numbers.splits}
    assert not used["train"] & used["test"]
    assert len(used["train"]) == 1000


def test_the_index_depends_on_the_seed_alone(numbers):
    assert digits_numbers.index(numbers, "test").equals(digits_numbers.index(numbers, "test"))
    assert not digits_numbers.index(changed(numbers, seed=1), "test").equals(digits_numbers.index(numbers, "test"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": 10}, "got 10 classes, expected 1000"),
        (
            {"splits": {s: {"num_shards": 1, "samples": 5, "source_images": 5} for s in ("train", "test")}},
            "splits.train.source_images is 5, expected enough for all digits",
        ),
    ],
)
def test_a_dataset_that_cannot_be_is_refused(numbers, fields, message):
    with pytest.raises(ValueError, match=message):
        digits_numbers.index(changed(numbers, **fields), "train")


def test_numbers_become_shards(numbers, tmp_path):
    report = verify(numbers, "test", build(numbers, "test", tmp_path / "test"))
    assert report["samples"] == 50


def test_the_cluster_of_an_image_is_its_distinct_digits_in_the_order_of_their_numbers(numbers):
    index = digits_numbers.index(numbers, "train")
    assert index["cluster"].type == pa.list_(pa.string())
    rows = index.to_pylist()
    assert {len(row["cluster"]) for row in rows} == {2, 3}
    for row in rows:
        assert row["cluster"] == [str(number) for number in sorted(set(row["objects"]))]
