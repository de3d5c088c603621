"""Prediction records of several runs become values of the same images in the same order."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from noah.average_precision import mean_average_precision
from noah.engine.predict import ranking, write_multi_label_predictions, write_predictions
from noah.report.records import read_predicted

KEYS = ["a", "b", "c", "d"]
LABELS = [0, 1, 2, 0]


def write(path, keys, labels, first, clusters=None):
    """Single-label records whose best classes are `first`."""
    frame = {"key": keys, "label": labels, "top5": [[f, 7, 8, 9, 10] for f in first]}
    table = pa.table(frame)
    if clusters is not None:
        table = table.append_column("cluster", pa.array(clusters, pa.list_(pa.string())))
    pq.write_table(table, path)
    return path


@pytest.fixture
def first(tmp_path):
    return write(tmp_path / "first.parquet", KEYS, LABELS, [0, 1, 0, 0])


def test_records_are_joined_by_key_not_by_place(tmp_path, first):
    other = write(tmp_path / "other.parquet", ["d", "c", "a", "b"], [0, 2, 0, 1], [5, 2, 0, 0])
    found = read_predicted("top1", {"baseline": {0: first}, "noah": {3: other}})
    assert found.seeds == {"baseline": [0], "noah": [3]}
    assert found.values["baseline"].tolist() == [[100, 100, 0, 100]]
    assert found.values["noah"].tolist() == [[100, 0, 100, 0]]
    assert found.clusters is None


def test_every_seed_of_an_arm_is_a_row_and_an_arm_without_any_is_left_out(tmp_path, first):
    again = write(tmp_path / "again.parquet", KEYS, LABELS, [9, 9, 9, 9])
    found = read_predicted("top1", {"absent": {}, "baseline": {4: first, 2: again}})
    assert found.seeds == {"baseline": [4, 2]}
    assert found.values["baseline"].mean(axis=1).tolist() == [75, 0]


def test_what_training_writes_is_read(tmp_path):
    logits = torch.eye(4)[[0, 1, 0, 3]]
    path = tmp_path / "predictions.parquet"
    write_predictions(path, np.array(KEYS), np.arange(4), ranking(logits, torch.arange(4)))
    assert read_predicted("top1", {"noah": {0: path}}).values["noah"].tolist() == [[100, 100, 0, 100]]


@pytest.mark.parametrize(
    ("keys", "labels", "message"),
    [
        (["a", "b", "c", "x"], LABELS, "keys differ between runs: 4 records, 4 in .*first.parquet.* 'd' is in one"),
        (["a", "b", "c"], LABELS[:3], "keys differ between runs: 3 records, 4 in .*first.parquet.*'d'"),
        (KEYS, [0, 1, 2, 3], "labels differ between runs, for example of key 'd' from .*first.parquet"),
    ],
)
def test_records_of_other_images_are_refused_with_both_files(tmp_path, first, keys, labels, message):
    other = write(tmp_path / "other.parquet", keys, labels, [0] * len(keys))
    with pytest.raises(ValueError, match=f"other.parquet: {message}") as error:
        read_predicted("top1", {"baseline": {0: first}, "noah": {0: other}})
    assert "\n" not in str(error.value)


def test_a_file_that_is_gone_or_no_table_is_named(tmp_path, first):
    with pytest.raises(ValueError, match=r"gone\.parquet: no such file, though the run was collected"):
        read_predicted("top1", {"baseline": {0: first}, "noah": {0: tmp_path / "gone.parquet"}})
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"text\.parquet: not prediction records"):
        read_predicted("top1", {"baseline": {0: tmp_path / "text.parquet"}})


@pytest.mark.parametrize("column", ["key", "label", "top5"])
def test_records_without_a_column_are_named(tmp_path, first, column):
    path = tmp_path / "partial.parquet"
    pd.read_parquet(first).drop(columns=column).to_parquet(path, index=False)
    with pytest.raises(ValueError, match=r"partial\.parquet: not prediction records"):
        read_predicted("top1", {"baseline": {0: path}})


def test_clusters_follow_the_order_of_the_values(tmp_path):
    keys, clusters = ["c", "a", "b", "d"], [["z"], ["x", "y"], ["y"], ["x"]]
    path = write(tmp_path / "clustered.parquet", keys, [2, 0, 1, 0], [2, 0, 0, 0], clusters)
    found = read_predicted("top1", {"noah": {0: path}})
    assert found.values["noah"].tolist() == [[100, 0, 100, 100]]
    assert list(map(tuple, found.clusters)) == [("x", "y"), ("y",), ("z",), ("x",)]


def test_records_that_name_other_sources_of_an_image_are_refused_with_both_files(tmp_path):
    first = write(tmp_path / "first.parquet", KEYS, LABELS, LABELS, [["x"], ["x"], ["y"], ["y"]])
    other = write(tmp_path / "other.parquet", KEYS, LABELS, LABELS, [["x"], ["x"], ["x"], ["y"]])
    with pytest.raises(ValueError, match=r"other\.parquet: other clusters than in .*first\.parquet"):
        read_predicted("top1", {"baseline": {0: first}, "noah": {0: other}})


@pytest.mark.parametrize("named_first", [True, False])
def test_records_of_before_there_were_sources_take_those_of_the_others(tmp_path, first, named_first):
    other = write(tmp_path / "other.parquet", KEYS[::-1], LABELS[::-1], LABELS[::-1], [["x"], ["x"], ["y"], ["z"]])
    files = {"baseline": {0: first}, "noah": {0: other}}
    found = read_predicted("top1", dict(reversed(files.items())) if named_first else files)
    assert list(map(tuple, found.clusters)) == [("z",), ("y",), ("x",), ("x",)]


def test_chance_is_what_a_guess_of_the_most_frequent_class_reaches(first):
    assert read_predicted("top1", {"noah": {0: first}}).chance == 50


def several(path, keys, labels, scores):
    targets = np.zeros((len(keys), 3), np.uint8)
    for image, own in enumerate(labels):
        targets[image, own] = 1
    write_multi_label_predictions(path, np.array(keys), targets, torch.tensor(scores), None)
    return path


def test_multi_label_records_are_joined_by_key_and_their_values_average_to_map(tmp_path):
    labels, scores = [[0], [0, 1], [1]], np.array([[3.0, 2, 0], [1, 4, 0], [2, 1, 0]], np.float32)
    first = several(tmp_path / "first.parquet", ["a", "b", "c"], labels, scores)
    other = several(tmp_path / "other.parquet", ["c", "a", "b"], [labels[2], *labels[:2]], scores[[2, 0, 1]])
    found = read_predicted("map", {"one": {0: first}, "other": {0: other}})
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    assert found.values["one"].mean() == pytest.approx(mean_average_precision(scores, targets))
    assert found.values["other"] == pytest.approx(found.values["one"])
    assert found.chance == pytest.approx(100 * 2 / 3), "two of three images in each class that has any"


def test_other_sets_of_labels_are_refused(tmp_path):
    scores = np.zeros((2, 3), np.float32)
    first = several(tmp_path / "first.parquet", ["a", "b"], [[0], [0, 1]], scores)
    other = several(tmp_path / "other.parquet", ["a", "b"], [[0], [1]], scores)
    with pytest.raises(ValueError, match=r"other\.parquet: labels differ .* 'b'"):
        read_predicted("map", {"one": {0: first}, "other": {0: other}})
