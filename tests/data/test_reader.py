import io
import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noah.data import reader
from noah.data.reader import Shards, epoch_order
from noah.files import sha256_file


def test_every_sample_is_read_as_it_was_written(train_folder):
    shards = Shards(train_folder)
    index = pq.read_table(train_folder / "index.parquet").to_pylist()
    assert len(shards) == len(index) == 61
    for i, row in enumerate(index):
        tar = (train_folder / f"tiny-train-{row['shard']:06d}.tar").read_bytes()
        assert shards.read(i) == tar[row["offset"] : row["offset"] + row["size"]]
        assert Image.open(io.BytesIO(shards.read(i))).size == (16, 16)
    assert shards.keys.tolist() == [row["key"] for row in index]
    assert shards.labels.tolist() == [row["label"] for row in index]
    assert shards.shard_of.tolist() == [row["shard"] for row in index]
    assert shards.labels.dtype == shards.shard_of.dtype == np.int64
    assert shards.manifest_sha256 == sha256_file(train_folder / "manifest.json")


def test_a_used_reader_can_be_pickled(train_folder):
    shards = Shards(train_folder)
    first = shards.read(0)
    assert pickle.loads(pickle.dumps(shards)).read(0) == first


def test_few_files_are_open_however_many_shards_there_are(train_folder, monkeypatch):
    monkeypatch.setattr(reader, "OPEN_FILES", 2)
    shards = Shards(train_folder)
    forwards = [shards.read(i) for i in range(len(shards))]
    assert len(shards._files) == 2
    assert [shards.read(i) for i in range(len(shards))] == forwards


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("manifest.json", lambda path: path.unlink(), "no such file"),
        ("index.parquet", lambda path: path.unlink(), "no such file"),
        ("index.parquet", cut, "sha256: got"),
        ("tiny-train-000002.tar", lambda path: path.unlink(), "no such file"),
        ("tiny-train-000002.tar", cut, "bytes: got"),
    ],
)
def test_a_missing_or_cut_file_is_named_at_once(train_folder, name, damage, message):
    damage(train_folder / name)
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        Shards(train_folder)


def test_a_tar_that_shrinks_later_is_named_with_the_key(train_folder):
    shards = Shards(train_folder)
    (train_folder / "tiny-train-000000.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"000000\.tar: offset 1536, key 00000000: got 0 bytes"):
        shards.read(0)


SHARD_OF = np.repeat(np.arange(10), 7)


def test_the_order_of_an_epoch_is_a_permutation():
    assert sorted(epoch_order(SHARD_OF, seed=0, epoch=0, window=4)) == list(range(70))


def test_the_order_is_pure_in_seed_and_epoch_and_differs_between_them():
    orders = {(seed, epoch): epoch_order(SHARD_OF, seed, epoch).tolist() for seed in range(3) for epoch in range(3)}
    np.random.seed(5)
    assert orders == {key: epoch_order(SHARD_OF, *key).tolist() for key in orders}
    assert len({tuple(order) for order in orders.values()}) == 9


def test_samples_are_shuffled_inside_windows_of_shards():
    order = epoch_order(SHARD_OF, seed=0, epoch=0, window=4)
    windows = [set(SHARD_OF[order[first : first + 28]]) for first in (0, 28, 56)]
    assert [len(shards) for shards in windows] == [4, 4, 2]
    assert set.union(*windows) == set(range(10))
    assert len(set(SHARD_OF[order[:7]])) > 1


def test_a_manifest_that_counts_otherwise_is_refused(train_folder):
    path = train_folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "samples": 60}))
    with pytest.raises(ValueError, match=r"manifest\.json: samples: got 60, expected 61"):
        Shards(train_folder)


def test_a_missing_tar_says_how_to_make_it_again(train_folder):
    (train_folder / "tiny-train-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"000001\.tar: no such file, .*`noah shard tiny train` makes it again"):
        Shards(train_folder)


def test_an_altered_tar_of_the_same_size_is_found_once_and_again_after_a_change(train_folder, tmp_path):
    remembered = tmp_path / "verified.json"
    Shards(train_folder).check_tars(remembered)
    assert len(json.loads(remembered.read_text())) == 5
    tar = train_folder / "tiny-train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[-1] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ValueError, match=r"000001\.tar: sha256: got"):
        Shards(train_folder).check_tars(remembered)
