"""A multi-label dataset from shards to metrics."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from noah.config import Recipe
from noah.data.reader import Shards
from noah.engine.optim import build_loss
from noah.engine.train import train
from noah.evaluate.metrics import score


@pytest.mark.parametrize("loss", ["bce", "asymmetric"])
def test_a_multi_label_run_learns_and_its_records_give_its_scores(tiny_shards, make_multi_label_run, loss):
    run = make_multi_label_run(multi_label_loss=loss, epochs=6, lr=3e-3)
    train(run, tiny_shards, Path("out"))
    history = pd.read_csv("out/history.csv")
    assert history.train_loss.iloc[-1] < history.train_loss.iloc[0]
    assert history.minival_map.between(0, 100).all()
    assert "minival_top1" not in history

    folder = tiny_shards / "tiny-multi" / "test"
    test, table = Shards(folder), pq.read_table("out/predictions.parquet")
    scores = np.stack(table["scores"].to_numpy())
    assert table["key"].to_pylist() == test.keys.tolist()
    assert [set(labels) for labels in table["labels"].to_pylist()] == [set(np.flatnonzero(row)) for row in test.labels]
    metrics = score(Path("out"), folder / "manifest.json")
    known = [c for c in range(10) if test.labels[:, c].any()]
    expected = [100 * average_precision_score(test.labels[:, c], scores[:, c]) for c in known]
    assert metrics["map"] == pytest.approx(np.mean(expected))
    assert metrics["minival_map"] == history.minival_map.iloc[-1]
    thresholds = json.loads(table.schema.metadata[b"noah.thresholds"])
    assert len(thresholds) == 10
    assert len(set(thresholds)) > 5  # chosen, class by class


def test_provenance_says_how_much_of_each_split_was_left_out(tiny_shards, make_multi_label_run):
    train(make_multi_label_run(epochs=1), tiny_shards, Path("out"))
    origin = json.loads(Path("out/provenance.json").read_text())
    assert origin["quarantine_share"] == {"train": 0.0, "minival": 0.0, "test": 0.0}


LOGITS, TARGETS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.eye(5, 4)


def recipe(**fields) -> Recipe:
    return Recipe(**{"epochs": 1, "batch": 4, "lr": 0.1, **fields})


def test_binary_cross_entropy_is_the_mean_over_images_and_classes():
    expected = nn.functional.binary_cross_entropy(LOGITS.sigmoid(), TARGETS)
    assert build_loss(recipe(), multi_label=True)(LOGITS, TARGETS).item() == pytest.approx(expected.item())


def test_the_asymmetric_loss_is_the_papers_with_the_official_settings():
    """Equations 4 to 6 of arXiv 2009.14119: gamma+ 1, gamma- 4, margin 0.05; the mean, not the sum."""
    p = LOGITS.double().sigmoid()
    shifted = (p - 0.05).clamp(min=0)
    losses = TARGETS * (1 - p) * -p.log() + (1 - TARGETS) * shifted**4 * -(1 - shifted).log()
    found = build_loss(recipe(multi_label_loss="asymmetric"), multi_label=True)(LOGITS, TARGETS)
    assert found.item() == pytest.approx(losses.mean().item(), rel=1e-5)


@pytest.mark.parametrize("field", ["mixup", "cutmix", "label_smoothing"])
def test_mixed_and_smoothed_targets_are_refused_with_multi_label_data(make_multi_label_run, field):
    with pytest.raises(ValueError, match=f"recipe 'tiny': {field} is 0.1, expected 0 for multi-label .* 'tiny-multi'"):
        make_multi_label_run(**{field: 0.1})


def test_the_loss_stands_in_the_run_only_where_it_is_not_the_default(make_multi_label_run):
    assert "multi_label_loss" not in make_multi_label_run().to_yaml()
    assert "multi_label_loss: asymmetric" in make_multi_label_run(multi_label_loss="asymmetric").to_yaml()
