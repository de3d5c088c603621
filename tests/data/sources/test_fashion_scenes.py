import io

import numpy as np
import pytest
from digits_builder import build, changed
from idx_replica import raw_files, write_replica
from PIL import Image
from tests_support import REPOSITORY

from noah.config import load_dataset
from noah.data.sources import fashion_mnist, fashion_scenes
from noah.data.verify import verify

SPLITS = {
    "train": {"num_shards": 2, "samples": 60, "source_images": 200, "raw": raw_files("train")},
    "minival": {"num_shards": 1, "samples": 20, "source_images": 100, "raw": raw_files("train")},
    "test": {"num_shards": 1, "samples": 30, "source_images": 100, "raw": raw_files("test")},
}


@pytest.fixture(params=["fashion-scenes", "fashion-multi"])
def dataset(request, raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "fashion"
    fields = {"root": str(root), "files": write_replica(root, raw), "splits": SPLITS}
    dataset = changed(load_dataset(request.param, REPOSITORY / "config"), **fields)
    fashion_mnist.fetch(dataset)
    return dataset


def objects(dataset, split):
    """(file, number) of every image behind a split's scenes."""
    own, members = fashion_scenes._own(dataset, split)
    used = set()
    for row in fashion_scenes.index(dataset, split).to_pylist():
        used |= set(row["objects"] if dataset.multi_label else [own.number(row["offset"])])
    assert used <= set(members.tolist())
    return {(own.container, number) for number in used}


def test_splits_share_no_image_though_train_and_minival_come_from_one_file(dataset):
    train, minival, test = (objects(dataset, split) for split in ("train", "minival", "test"))
    assert not train & minival
    assert {file for file, _ in train | minival} == {"train-images-idx3-ubyte"}
    assert {file for file, _ in test} == {"t10k-images-idx3-ubyte"}


def test_scenes_are_pure_in_their_key(dataset):
    rows = fashion_scenes.index(dataset, "train").to_pylist()
    read, again = (fashion_scenes.open_source(dataset, "train") for _ in range(2))
    forwards = [read(row) for row in rows]
    assert [again(row) for row in reversed(rows)] == forwards[::-1]
    image = Image.open(io.BytesIO(forwards[0][1]))
    assert (forwards[0][0], image.mode, image.size) == ("png", "L", (64, 64))


def test_labels_are_those_of_the_objects(dataset):
    labels = fashion_mnist.load_images(dataset, "train").labels
    own, _ = fashion_scenes._own(dataset, "train")
    for row in fashion_scenes.index(dataset, "train").to_pylist():
        if dataset.multi_label:
            assert row["labels"] == np.unique(labels[row["objects"]]).tolist()
        else:
            assert row["label"] == labels[own.number(row["offset"])]


def test_scenes_become_shards(dataset, tmp_path):
    assert verify(dataset, "minival", build(dataset, "minival", tmp_path / "minival"))["samples"] == 20


def test_a_label_that_is_no_class_is_refused(dataset):
    with pytest.raises(ValueError, match="the labels go to 9, expected 0 to 7"):
        fashion_scenes.index(changed(dataset, classes=8), "test")


def test_the_cluster_of_a_scene_is_its_images_of_fashion_mnist(dataset):
    own, _ = fashion_scenes._own(dataset, "test")
    for row in fashion_scenes.index(dataset, "test").to_pylist():
        chosen = row["objects"] if dataset.multi_label else [own.number(row["offset"])]
        assert row["cluster"] == [str(number) for number in sorted(set(chosen))]
