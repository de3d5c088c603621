import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, precision_recall_fscore_support

from noah.engine.predict import best_thresholds, write_multi_label_predictions
from noah.evaluate.metrics import score
from noah.evaluate.multi_label import multi_label_metrics

RNG = np.random.default_rng(0)
TARGETS = RNG.random((200, 6)) < 0.3
SCORES = (RNG.normal(size=(200, 6)) + 2 * TARGETS - 1).astype(np.float32)
CHOSEN = np.full(6, 0.4)


def finished_run(root: Path, targets=TARGETS, scores=SCORES, thresholds=None, minival_map="40.0") -> tuple[Path, Path]:
    run_dir = root / "run"
    run_dir.mkdir()
    keys = np.array([f"{2 * i:08d}" for i in range(len(targets))])
    write_multi_label_predictions(
        run_dir / "predictions.parquet", keys, targets.astype(np.uint8), torch.from_numpy(scores), thresholds
    )
    (run_dir / "history.csv").write_text(f"epoch,train_loss,minival_loss,minival_map\n1,0.25,0.5,{minival_map}\n")
    (run_dir / "provenance.json").write_text(json.dumps({"run_key": "a/b", "run_sha256": "0" * 64}))
    manifest = root / "manifest.json"
    manifest.write_text(json.dumps({"samples": 200, "classes": {str(c): 1 for c in range(6)}}))
    return run_dir, manifest


def predicted(rule: str) -> np.ndarray:
    if rule == "_top3":
        return np.argsort(np.argsort(-SCORES, axis=1), axis=1) < 3
    return 1 / (1 + np.exp(-SCORES.astype(np.float64))) >= (0.4 if rule else 0.5)


@pytest.mark.parametrize("rule", ["", "_top3", "_chosen"])
def test_precision_and_recall_are_scikit_learns(rule):
    found = multi_label_metrics(TARGETS, SCORES, CHOSEN)
    for letter, average in (("c", "macro"), ("o", "micro")):
        precision, recall, f1, _ = precision_recall_fscore_support(TARGETS, predicted(rule), average=average)
        if letter == "c":  # scikit-learn's macro F1 is the mean of the classes' F1
            f1 = 2 * precision * recall / (precision + recall)
        values = [found[f"{letter}{name}{rule}"] for name in ("p", "r", "f1")]
        assert values == pytest.approx([100 * precision, 100 * recall, 100 * f1])


def test_what_equals_its_threshold_is_predicted_and_what_is_never_predicted_counts_as_nothing():
    scores = np.full((4, 3), -5.0, np.float32)
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1]], bool)
    scores[:, 0] = [0.0, -1.0, 0.0, -1.0]  # a probability of just a half
    scores[:, 1] = [-1.0, -2.0, -1.0, -2.0]  # wrong, and just its threshold
    thresholds = np.array([0.5, 1 / (1 + np.exp(1.0)), 0.5])
    found = multi_label_metrics(targets, scores, thresholds)
    for rule, predicted_here in (
        ("", np.array([[1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]], bool)),
        ("_chosen", np.array([[1, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]], bool)),
    ):
        for letter, average in (("c", "macro"), ("o", "micro")):
            precision, recall, f1, _ = precision_recall_fscore_support(
                targets, predicted_here, average=average, zero_division=0
            )
            f1 = 2 * precision * recall / (precision + recall) if letter == "c" else f1
            values = [found[f"{letter}{name}{rule}"] for name in ("p", "r", "f1")]
            assert values == pytest.approx([100 * precision, 100 * recall, 100 * f1])
    assert found["cp"] == pytest.approx(100 / 3), "two of three classes are never predicted"


def test_loss_is_scikit_learns_mean_over_images_and_classes():
    probabilities = 1 / (1 + np.exp(-SCORES.astype(np.float64)))
    expected = log_loss(TARGETS.reshape(-1), probabilities.reshape(-1))
    assert multi_label_metrics(TARGETS, SCORES, CHOSEN)["loss"] == pytest.approx(expected)


def test_a_class_without_images_counts_in_no_mean_over_classes():
    targets = TARGETS.copy()
    targets[:, 0] = False
    found = multi_label_metrics(targets, SCORES, CHOSEN)
    assert found["per_class_ap"][0] is None
    without = multi_label_metrics(targets[:, 1:], SCORES[:, 1:], CHOSEN[1:])
    assert [found[name] for name in ("map", "cp", "cr", "cf1")] == [
        without[name] for name in ("map", "cp", "cr", "cf1")
    ]


def test_records_are_scored_with_the_thresholds_they_came_with(tmp_path):
    run_dir, manifest = finished_run(tmp_path, thresholds=CHOSEN.tolist())
    metrics = score(run_dir, manifest)
    expected = multi_label_metrics(TARGETS, SCORES, CHOSEN)
    assert {name: metrics[name] for name in expected} == expected
    assert (metrics["images"], metrics["minival_map"], metrics["final_train_loss"]) == (200, 40.0, 0.25)
    assert metrics == json.loads((run_dir / "metrics.json").read_text())


def test_without_a_minival_every_threshold_is_a_half(tmp_path):
    metrics = score(*finished_run(tmp_path, minival_map=""))
    assert metrics["minival_map"] is None
    assert metrics["cf1_chosen"] == metrics["cf1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": TARGETS[:199], "scores": SCORES[:199]}, "199 records, expected the manifest's 200 samples"),
        ({"scores": np.where(np.arange(1200).reshape(200, 6) == 7, np.nan, SCORES)}, "scores of key '00000002'"),
        ({"targets": np.eye(7, dtype=bool)[[6] * 200], "scores": np.zeros((200, 7), np.float32)}, "hold 6, expected 0"),
        ({"targets": TARGETS[:, :5], "scores": SCORES[:, :5]}, "got 1000 of 200 images, expected 6 of each"),
    ],
)
def test_records_of_something_else_are_refused_in_one_line(tmp_path, change, message):
    run_dir, manifest = finished_run(tmp_path, **change)
    with pytest.raises(ValueError, match=r"predictions\.parquet: ") as error:
        score(run_dir, manifest)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_thresholds_are_where_f1_is_largest():
    labels = TARGETS.astype(np.uint8)
    labels[:, 5] = 0
    chosen = best_thresholds(torch.from_numpy(SCORES), labels)
    assert chosen[5] == 0.5
    probabilities = 1 / (1 + np.exp(-SCORES.astype(np.float64)))
    for number in range(5):
        of_class = [
            probabilities[:, number] >= t for t in (chosen[number] - 1e-9, *np.unique(probabilities[:, number]))
        ]
        f1 = [
            precision_recall_fscore_support(labels[:, number], one, average="binary", zero_division=0)[2]
            for one in of_class
        ]
        assert f1[0] == pytest.approx(max(f1[1:]))
