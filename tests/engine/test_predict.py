"""Prediction records: the same columns for every run, and the clusters of the images where the shards have them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from noah.data.reader import Shards
from noah.engine.predict import (
    loss_and_score,
    ranking,
    write_multi_label_predictions,
    write_predictions,
    write_records,
)
from noah.evaluate.multi_label import read_multi_label

KEYS, LABELS = np.array(["00000000", "00000002", "00000005"]), np.array([0, 2, 1])
TARGETS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.uint8)
LOGITS = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
RANKED = ranking(LOGITS, torch.from_numpy(LABELS))
CLUSTERS = pa.array([["7"], ["12", "30"], ["7"]], pa.list_(pa.string()))
WRITERS = {
    "single-label": lambda path, **clusters: write_predictions(path, KEYS, LABELS, RANKED, **clusters),
    "multi-label": lambda path, **clusters: write_multi_label_predictions(
        path, KEYS, TARGETS, LOGITS, [0.25, 0.5, 0.75], **clusters
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_clusters_are_one_more_column_and_change_no_other(tmp_path, kind):
    plain, named = tmp_path / "plain.parquet", tmp_path / "named.parquet"
    WRITERS[kind](plain)
    WRITERS[kind](named, clusters=CLUSTERS)
    table = pq.read_table(named)
    assert table["cluster"].type == pa.list_(pa.string())
    assert table["cluster"].to_pylist() == CLUSTERS.to_pylist()
    assert table.drop_columns("cluster").equals(pq.read_table(plain), check_metadata=True)
    assert table.column_names[-1] == "cluster"


@pytest.mark.parametrize("kind", WRITERS)
def test_without_clusters_the_records_are_the_bytes_that_they_were(tmp_path, kind):
    WRITERS[kind](tmp_path / "a.parquet")
    WRITERS[kind](tmp_path / "b.parquet", clusters=None)
    assert "cluster" not in pq.read_schema(tmp_path / "a.parquet").names
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_readers_of_multi_label_records_are_not_disturbed_by_clusters(tmp_path):
    WRITERS["multi-label"](tmp_path / "a.parquet")
    WRITERS["multi-label"](tmp_path / "b.parquet", clusters=CLUSTERS)
    plain, named = (read_multi_label(tmp_path / f"{name}.parquet", 3) for name in "ab")
    assert plain[0] == named[0]
    assert all(np.array_equal(one, other) for one, other in zip(plain[1:], named[1:], strict=True))


@pytest.mark.parametrize("name", ["tiny", "tiny-multi"])
def test_the_records_of_a_split_have_the_clusters_of_its_shards(tiny_shards, tmp_path, name):
    shards = Shards(tiny_shards / name / "test")
    assert shards.clusters is not None
    rows = torch.zeros(len(shards), 10 if name == "tiny-multi" else 11)
    write_records(tmp_path / "a.parquet", shards, rows)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["key"].to_pylist() == shards.keys.tolist()
    assert table["cluster"].to_pylist() == shards.clusters.to_pylist()
    shards.clusters = None
    write_records(tmp_path / "b.parquet", shards, rows)
    assert pq.read_table(tmp_path / "b.parquet").equals(table.drop_columns("cluster"))


@pytest.mark.parametrize("classes", [3, 5, 8])
def test_the_five_best_classes_are_recorded_best_first_and_missing_ones_as_none(tmp_path, classes):
    logits = torch.randn(40, classes, generator=torch.Generator().manual_seed(1))
    labels = np.arange(40) % classes
    rows = ranking(logits, torch.from_numpy(labels))
    write_predictions(tmp_path / "p.parquet", np.array([f"{i:08d}" for i in range(40)]), labels, rows)
    found = pq.read_table(tmp_path / "p.parquet").to_pandas()
    probabilities = logits.double().softmax(1).numpy()
    ranked = np.argsort(-probabilities, axis=1)[:, :5]
    for row, best in enumerate(ranked):
        filled = [*best, *[-1] * (5 - len(best))]
        assert found.top5[row].tolist() == filled
        expected = [*probabilities[row, best], *[0.0] * (5 - len(best))]
        np.testing.assert_allclose(found.top5_prob[row], expected, rtol=1e-6)
    np.testing.assert_allclose(found.label_logprob, np.log(probabilities[np.arange(40), labels]), rtol=1e-6)


@pytest.mark.parametrize("classes", [3, 20, 1000])
def test_of_equal_scores_the_lower_class_wins_everywhere(tmp_path, classes):
    scores = torch.randint(3, (2000, classes), generator=torch.Generator().manual_seed(0)).double()
    expected = [sorted(range(classes), key=lambda c, row=row: (-row[c], c))[:5] for row in scores.tolist()]
    labels = torch.tensor([row[0] for row in expected])
    rows = ranking(scores.float(), labels)
    assert loss_and_score(rows, labels.numpy())[1] == 100.0
    write_predictions(tmp_path / "a.parquet", np.arange(2000).astype(str), labels.numpy(), rows)
    assert pq.read_table(tmp_path / "a.parquet")["top5"].to_pylist() == [[*row, -1, -1][:5] for row in expected]


def test_the_loss_of_a_split_is_the_mean_cross_entropy():
    expected = torch.nn.functional.cross_entropy(LOGITS.double(), torch.from_numpy(LABELS)).item()
    assert loss_and_score(RANKED, LABELS)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_no_finite_number_is_seen_in_the_ranking(bad):
    logits = LOGITS.clone()
    logits[1, 0] = bad
    assert ranking(logits, torch.from_numpy(LABELS)).isnan().any(1).tolist() == [False, True, False]
