import hashlib
import io
import json
import pickle
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noah.data import open_files
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
    monkeypatch.setattr(open_files, "OPEN_FILES", 2)
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


def indexed(folder, table: pa.Table, shards: int = 1, num_classes: int = 10):
    """A split with this index and empty tars."""
    folder.mkdir()
    pq.write_table(table, folder / "index.parquet")
    names = [f"made-train-{shard:06d}.tar" for shard in range(shards)]
    for name in names:
        (folder / name).write_bytes(b"x")
    manifest = {
        "dataset": "made",
        "split": "train",
        "samples": table.num_rows,
        "classes": {str(number): 1 for number in range(num_classes)},
        "quarantine_share": 0.0,
        "source_sha256": "0" * 64,
        "index_sha256": sha256_file(folder / "index.parquet"),
        "shards": [{"name": name, "samples": 1, "bytes": 1, "sha256": "0" * 64} for name in names],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def columns(keys, shard_of) -> dict:
    zeros = pa.array(np.zeros(len(keys), np.int64))
    return {"key": pa.array(keys), "shard": pa.array(shard_of, pa.int32()), "offset": zeros, "size": zeros}


def test_multi_label_images_have_a_row_of_zeros_and_ones_and_keys_may_have_gaps(tmp_path):
    labels = pa.array([[0, 3], [], [2]], pa.list_(pa.int32()))
    table = pa.table({**columns(["00000000", "00000004", "00000007"], [0, 0, 0]), "labels": labels})
    shards = Shards(indexed(tmp_path / "made", table, num_classes=4))
    assert shards.labels.tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert shards.labels.dtype == np.uint8
    assert [int(key) for key in shards.keys] == [0, 4, 7]


def test_an_index_of_1_3_million_images_loads_in_less_than_two_seconds(tmp_path):
    samples = 1_300_000
    keys = pa.array(np.arange(samples)).cast(pa.string())
    keys = pc.utf8_lpad(keys, 8, "0")
    labels = pa.array(np.arange(samples) % 1000, pa.int32())
    table = pa.table({**columns(keys, np.arange(samples) * 600 // samples), "label": labels})
    folder = indexed(tmp_path / "made", table, shards=600, num_classes=1000)
    started = time.process_time()
    shards = Shards(folder)
    assert time.process_time() - started < 2
    assert (len(shards), shards.keys[-1], shards.labels[1234567]) == (samples, "01299999", 567)


SHARD_OF = np.repeat(np.arange(10), 7)


def test_the_order_of_an_epoch_is_a_permutation():
    assert sorted(epoch_order(SHARD_OF, seed=0, epoch=0, window=4)) == list(range(70))


def test_the_order_is_pure_in_seed_and_epoch_and_differs_between_them():
    orders = {(seed, epoch): epoch_order(SHARD_OF, seed, epoch).tolist() for seed in range(3) for epoch in range(3)}
    np.random.seed(5)
    assert orders == {key: epoch_order(SHARD_OF, *key).tolist() for key in orders}
    assert len({tuple(order) for order in orders.values()}) == 9


def test_the_order_is_the_one_that_runs_of_this_version_were_trained_in():
    """Digests of the orders: whoever changes one raises RESULTS_VERSION."""
    digests = [
        hashlib.sha256(epoch_order(SHARD_OF, seed, epoch, window=4).astype("<i8").tobytes()).hexdigest()[:16]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert digests == ["0c2c1b61ced0de08", "9bacbfdd1dd812bd", "0f86e6c71626b1e9"]


def test_shards_are_shuffled_before_they_are_cut_into_windows():
    first = [set(SHARD_OF[epoch_order(SHARD_OF, 0, epoch, window=4)[:28]]) for epoch in range(5)]
    assert len(set(map(frozenset, first))) > 1


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


def one_label(count: int) -> dict:
    keys = [f"{number:08d}" for number in range(count)]
    return {**columns(keys, [0] * count), "label": pa.array([0] * count, pa.int32())}


def test_clusters_are_lists_of_names_in_index_order_or_none(tmp_path):
    names = [["7"], ["3", "12"], ["7"]]
    table = pa.table({**one_label(3), "cluster": pa.array(names, pa.list_(pa.string()))})
    shards = Shards(indexed(tmp_path / "named", table))
    assert shards.clusters.type == pa.list_(pa.string())
    assert pickle.loads(pickle.dumps(shards)).clusters.to_pylist() == names
    assert Shards(indexed(tmp_path / "unnamed", pa.table(one_label(3)))).clusters is None


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (pa.array(["a", "b"]), "type of column 'cluster': got 'string', expected 'list<item: string>'"),
        (pa.array([[1], [2]]), "type of column 'cluster': got 'list<element: int64>'"),
        (pa.array([["a"], None], pa.list_(pa.string())), "row 1: cluster is None, expected a list of"),
        (pa.array([["a"], []], pa.list_(pa.string())), r"row 1: cluster is \[\], expected"),
        (pa.array([["a", None], ["b"]], pa.list_(pa.string())), r"row 0: cluster is \['a', None\], expected"),
        (pa.array([["a"], ["b", ""]], pa.list_(pa.string())), r"row 1: cluster is \['b', ''\], expected"),
    ],
)
def test_clusters_that_are_no_names_are_refused_with_file_and_row(tmp_path, clusters, message):
    folder = indexed(tmp_path / "made", pa.table({**one_label(2), "cluster": clusters}))
    with pytest.raises(ValueError, match=rf"^[^\n]*index\.parquet: {message}"):
        Shards(folder)


def test_an_index_of_1_3_million_images_with_clusters_loads_in_less_than_three_seconds(tmp_path):
    samples = 1_300_000
    names = pa.array(np.arange(samples) % 1797).cast(pa.string())
    clusters = pa.ListArray.from_arrays(pa.array(np.arange(samples + 1), pa.int32()), names)
    keys = pc.utf8_lpad(pa.array(np.arange(samples)).cast(pa.string()), 8, "0")
    labels = pa.array(np.arange(samples) % 1000, pa.int32())
    table = pa.table({**columns(keys, np.zeros(samples)), "label": labels, "cluster": clusters})
    folder = indexed(tmp_path / "made", table, num_classes=1000)
    started = time.process_time()
    shards = Shards(folder)
    assert time.process_time() - started < 3
    assert shards.clusters[1798].as_py() == ["1"]
