import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score, top_k_accuracy_score

from noah.evaluate.metrics import score

RECORDS = {
    "key": ["000002", "000000", "000001", "000003"],
    "label": np.array([0, 1, 1, 6], np.int32),
    "top5": [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [2, 0, 3, 4, 5], [6, 0, 1, 2, 3]],
    "top5_prob": [[0.5, 0.2, 0.1, 0.1, 0.05]] * 4,
    "label_logprob": np.array([-0.5, -1.0, -2.0, -0.25], np.float32),
}
HISTORY = """epoch,step,time,lr,train_loss,images_per_s,minival_loss,minival_top1
1,5,0.5,.1,2.5,9,,
2,10,1.5,.1,1.25,9,1.0,{top1}
"""


def finished_run(root: Path, minival_top1: str = "62.5", samples: int = 4, **columns) -> tuple[Path, Path]:
    run_dir = root / "results/digits/runs/digits/short/resnet18-w1/noah/s0"
    run_dir.mkdir(parents=True)
    pd.DataFrame({**RECORDS, **columns}).to_parquet(run_dir / "predictions.parquet", index=False)
    (run_dir / "history.csv").write_text(HISTORY.format(top1=minival_top1))
    origin = {"run_key": "digits/short/resnet18-w1/noah/s0", "run_sha256": "0" * 64}
    (run_dir / "provenance.json").write_text(json.dumps(origin))
    manifest = root / "manifest.json"
    manifest.write_text(json.dumps({"samples": samples, "classes": {str(c): 1 for c in range(7)}}))
    return run_dir, manifest


def test_metrics_are_those_of_hand_counted_records(tmp_path):
    run_dir, manifest = finished_run(tmp_path)
    assert score(run_dir, manifest) == {
        "run_key": "digits/short/resnet18-w1/noah/s0",
        "run_sha256": "0" * 64,
        "split": "test",
        "images": 4,
        "top1": 50.0,
        "top5": 75.0,
        "loss": 0.9375,
        "per_class_top1": [100.0, 0.0, None, None, None, None, 100.0],
        "minival_top1": 62.5,
        "final_train_loss": 1.25,
    }


def test_shares_of_right_images_are_scikit_learns_at_every_rank(tmp_path):
    """Labels on each of the five places and on none, some classes without an image, one always mistaken."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 7))
    label = np.arange(300) % 6
    logits[label == 2, 2] = -9
    logits[np.arange(50), label[:50]] = np.sort(logits[:50], axis=1)[:, 2] - 1e-9  # on the fifth place or below
    columns = {
        "key": [f"{image:06d}" for image in range(300)],
        "label": label.astype(np.int32),
        "top5": list(np.argsort(-logits, axis=1, kind="stable")[:, :5].astype(np.int32)),
        "top5_prob": [[0.2] * 5] * 300,
        "label_logprob": np.zeros(300, np.float32),
    }
    found = score(*finished_run(tmp_path, samples=300, **columns))
    for name, k in (("top1", 1), ("top5", 5)):
        expected = top_k_accuracy_score(label, logits, k=k, labels=range(7))
        assert found[name] == pytest.approx(100 * expected)
        assert top_k_accuracy_score(label, logits, k=max(1, k - 1), labels=range(7)) < expected or k == 1
    recall = recall_score(label, logits.argmax(1), labels=range(6), average=None)
    assert found["per_class_top1"][:6] == pytest.approx(100 * recall)
    assert found["per_class_top1"][6] is None


def test_metrics_json_holds_what_score_returns(tmp_path):
    run_dir, manifest = finished_run(tmp_path)
    assert score(run_dir, manifest) == json.loads((run_dir / "metrics.json").read_text())


def test_weights_that_the_recipe_does_not_name_are_scored_beside_those_that_it_does(tmp_path):
    run_dir, manifest = finished_run(tmp_path)
    plain, path = score(run_dir, manifest), run_dir / "provenance.json"
    origin = json.loads(path.read_text()) | {"evaluated_weights": "last", "kept_weights": ["last", "ema"]}
    path.write_text(json.dumps(origin))
    with pytest.raises(ValueError, match=r"predictions_ema\.parquet: no such file"):
        score(run_dir, manifest)
    right = [[label, *(c for c in range(7) if c != label)][:5] for label in RECORDS["label"]]
    pd.DataFrame({**RECORDS, "top5": right}).to_parquet(run_dir / "predictions_ema.parquet", index=False)
    scored = score(run_dir, manifest)
    other = scored.pop("other_weights")
    assert scored == plain
    assert (other["weights"], other["top1"], other["loss"]) == ("ema", 100.0, plain["loss"])


def test_records_of_weights_that_the_run_did_not_keep_are_left_alone(tmp_path):
    run_dir, manifest = finished_run(tmp_path)
    (run_dir / "predictions_ema.parquet").write_text("of an earlier training")
    assert "other_weights" not in score(run_dir, manifest)


def test_a_run_without_minival_has_none(tmp_path):
    run_dir, manifest = finished_run(tmp_path, minival_top1="")
    assert score(run_dir, manifest)["minival_top1"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 5}, "4 records, expected the manifest's 5 samples"),
        ({"key": ["000000", "000000", "000001", "000003"]}, "key: '000000' is recorded more than once"),
        ({"label": np.array([0, 1, 1, 7], np.int32)}, "label of key '000003' is 7, expected 0 to 6"),
        ({"label": np.array([0, -1, 1, 6], np.int32)}, "label of key '000000' is -1, expected 0 to 6"),
        ({"label_logprob": [-0.5, np.nan, -2.0, -0.25]}, "label_logprob of key '000000' is nan"),
    ],
)
def test_records_that_are_not_the_manifests_samples_are_refused_in_one_line(tmp_path, change, message):
    run_dir, manifest = finished_run(tmp_path, **change)
    with pytest.raises(ValueError, match=r"predictions\.parquet: ") as error:
        score(run_dir, manifest)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (run_dir / "metrics.json").exists()


@pytest.mark.parametrize("name", ["predictions.parquet", "history.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    run_dir, manifest = finished_run(tmp_path)
    (run_dir / name).unlink()
    with pytest.raises(ValueError, match=name):
        score(run_dir, manifest)


def test_broken_records_are_named(tmp_path):
    run_dir, manifest = finished_run(tmp_path)
    (run_dir / "predictions.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"predictions\.parquet: not prediction records"):
        score(run_dir, manifest)


def test_records_without_a_column_are_refused(tmp_path):
    run_dir, manifest = finished_run(tmp_path)
    path = run_dir / "predictions.parquet"
    pd.read_parquet(path).drop(columns="label_logprob").to_parquet(path)
    with pytest.raises(ValueError, match="label_logprob"):
        score(run_dir, manifest)
