"""Accuracy from prediction records: what was predicted is on disk, so a metric never needs the model again."""

from pathlib import Path

import numpy as np
import pandas as pd

from noah.files import read_json, write_json


def score(run_dir: Path, test_manifest: Path) -> dict:
    """Score the single-label records of a run and write its metrics.json.

    Args:
        run_dir: `…/runs/{dataset}/{recipe}/{backbone}/{arm}/s{seed}` with predictions.parquet, history.csv
            and provenance.json.
        test_manifest: manifest.json of the split that was predicted.

    Returns:
        What metrics.json holds: top1, top5, per_class_top1 and minival_top1 in percent (a class without images and a
        run without minival: None), loss in nats per image.

    Raises:
        ValueError: A file is missing or broken, or the records are not exactly the manifest's samples.
    """
    manifest = read_json(test_manifest)
    for field in ("samples", "classes"):
        if field not in manifest:
            raise ValueError(f"{test_manifest}: missing key '{field}'")
    path = run_dir / "predictions.parquet"
    records = _read_predictions(path)
    _check_records(path, records, manifest["samples"], len(manifest["classes"]))
    history = _read_history(run_dir / "history.csv")

    label = records["label"].to_numpy()
    top5 = np.stack(records["top5"].to_numpy())
    first = top5[:, 0] == label
    images = np.bincount(label, minlength=len(manifest["classes"]))
    hits = np.bincount(label[first], minlength=len(images))
    last = history.iloc[-1]
    provenance = read_json(run_dir / "provenance.json")
    for field in ("run_key", "run_sha256"):
        if field not in provenance:
            raise ValueError(f"{run_dir / 'provenance.json'}: missing key '{field}'")
    metrics = {
        "run_key": provenance["run_key"],
        "run_sha256": provenance["run_sha256"],
        "split": "test",
        "images": len(records),
        "top1": 100 * int(first.sum()) / len(records),
        "top5": 100 * int((top5 == label[:, None]).any(axis=1).sum()) / len(records),
        "loss": -float(records["label_logprob"].to_numpy(np.float64).mean()),
        "per_class_top1": [100 * int(h) / int(n) if n else None for h, n in zip(hits, images, strict=True)],
        "minival_top1": None if pd.isna(last["minival_top1"]) else float(last["minival_top1"]),
        "final_train_loss": float(last["train_loss"]),
    }
    write_json(run_dir / "metrics.json", metrics)
    return metrics


def _read_predictions(path: Path) -> pd.DataFrame:
    """Columns key, label, top5 (5,), label_logprob; ValueError names the file."""
    try:
        return pd.read_parquet(path, columns=["key", "label", "top5", "label_logprob"])
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise ValueError(f"{path}: not prediction records: {' '.join(str(error).split())}") from None


def _check_records(path: Path, records: pd.DataFrame, samples: int, num_classes: int) -> None:
    if len(records) != samples:
        raise ValueError(f"{path}: {len(records)} records, expected the manifest's {samples} samples")
    if not samples:
        raise ValueError(f"{path}: no records, expected at least one")
    doubled = records["key"][records["key"].duplicated()]
    if len(doubled):
        raise ValueError(f"{path}: key: '{doubled.iloc[0]}' is recorded more than once, expected every key once")
    wrong = records[(records["label"] < 0) | (records["label"] >= num_classes)]
    if len(wrong):
        key, label = wrong.iloc[0][["key", "label"]]
        raise ValueError(f"{path}: label of key '{key}' is {label}, expected 0 to {num_classes - 1}")
    lost = records[~np.isfinite(records["label_logprob"])]
    if len(lost):
        key, value = lost.iloc[0][["key", "label_logprob"]]
        raise ValueError(
            f"{path}: label_logprob of key '{key}' is {value}, expected a finite number: training diverged"
        )


def _read_history(path: Path) -> pd.DataFrame:
    try:
        history = pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        raise ValueError(f"{path}: missing or empty, expected one line per epoch") from None
    absent = {"train_loss", "minival_top1"} - set(history.columns)
    if absent or history.empty:
        raise ValueError(f"{path}: expected one line per epoch with columns train_loss and minival_top1")
    if not np.isfinite(history["train_loss"].iloc[-1]):
        value = history["train_loss"].iloc[-1]
        raise ValueError(f"{path}: train_loss of the last epoch is {value}, expected a finite number")
    return history
