"""Metrics from prediction records: what was predicted is on disk, so a metric never needs the model again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from noah.evaluate.multi_label import multi_label_metrics, read_multi_label
from noah.files import read_mapping, read_parquet, reading, write_json


def score(run_dir: Path, test_manifest: Path) -> dict:
    """Score the records of a run and write its metrics.json.

    Args:
        run_dir: `…/runs/{dataset}/{recipe}/{backbone}/{arm}/s{seed}` with predictions.parquet, history.csv
            and provenance.json.
        test_manifest: manifest.json of the split that was predicted.

    Returns:
        What metrics.json holds: top1, top5 and per_class_top1 in percent (a class without images: None) and loss in
        nats per image, or what `multi_label_metrics` says; minival_top1 or minival_map in percent (a run without
        minival: None), final_train_loss; of a run that kept two kinds of weights `other_weights`: which those are that
        its recipe does not name, and the same numbers of them.

    Raises:
        ValueError: A file is missing or broken, or the records are not exactly the manifest's samples.
    """
    manifest = read_mapping(test_manifest, "samples", "classes")
    with reading(test_manifest):
        samples, num_classes = int(manifest["samples"]), len(manifest["classes"])
    path = run_dir / "predictions.parquet"
    multi_label = _is_multi_label(path)
    measure = _multi_label if multi_label else _single_label
    with reading(path):
        images, measured = measure(path, samples, num_classes)
    provenance = read_mapping(run_dir / "provenance.json", "run_key", "run_sha256")
    other = {}
    for kind in set(provenance.get("kept_weights", ())) - {provenance.get("evaluated_weights")}:
        path = run_dir / f"predictions_{kind}.parquet"
        with reading(path):
            other = {"weights": kind, **measure(path, samples, num_classes)[1]}
    minival = "minival_map" if multi_label else "minival_top1"
    history = run_dir / "history.csv"
    with reading(history):
        last = _read_history(history, minival).iloc[-1]
        minival_score, final_loss = (float(last[name]) for name in (minival, "train_loss"))
    metrics = {
        "run_key": provenance["run_key"],
        "run_sha256": provenance["run_sha256"],
        "split": "test",
        "images": images,
        **measured,
        **({"other_weights": other} if other else {}),
        minival: None if pd.isna(minival_score) else minival_score,
        "final_train_loss": final_loss,
    }
    write_json(run_dir / "metrics.json", metrics)
    return metrics


def _is_multi_label(path: Path) -> bool:
    try:
        return "labels" in pq.read_schema(path).names
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not prediction records: {' '.join(str(error).split())}") from None


def _multi_label(path: Path, samples: int, num_classes: int) -> tuple[int, dict]:
    keys, targets, scores, thresholds = read_multi_label(path, num_classes)
    _check_keys(path, pd.Series(keys), samples)
    return len(keys), multi_label_metrics(targets, scores, thresholds)


def _single_label(path: Path, samples: int, num_classes: int) -> tuple[int, dict]:
    records = _read_predictions(path)
    _check_keys(path, records["key"], samples)
    _check_records(path, records, num_classes)
    label = records["label"].to_numpy()
    top5 = np.stack(records["top5"].to_numpy())
    first = top5[:, 0] == label
    images = np.bincount(label, minlength=num_classes)
    hits = np.bincount(label[first], minlength=num_classes)
    return len(records), {
        "top1": 100 * int(first.sum()) / len(records),
        "top5": 100 * int((top5 == label[:, None]).any(axis=1).sum()) / len(records),
        "loss": -float(records["label_logprob"].to_numpy(np.float64).mean()),
        "per_class_top1": [100 * int(h) / int(n) if n else None for h, n in zip(hits, images, strict=True)],
    }


def _read_predictions(path: Path) -> pd.DataFrame:
    """Columns key, label, top5 (5,), label_logprob; ValueError names the file."""
    try:
        return read_parquet(path, ["key", "label", "top5", "label_logprob"]).to_pandas()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise ValueError(f"{path}: not prediction records: {' '.join(str(error).split())}") from None


def _check_keys(path: Path, keys: pd.Series, samples: int) -> None:
    if len(keys) != samples:
        raise ValueError(f"{path}: {len(keys)} records, expected the manifest's {samples} samples")
    if not samples:
        raise ValueError(f"{path}: no records, expected at least one")
    doubled = keys[keys.duplicated()]
    if len(doubled):
        raise ValueError(f"{path}: key: '{doubled.iloc[0]}' is recorded more than once, expected every key once")


def _check_records(path: Path, records: pd.DataFrame, num_classes: int) -> None:
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


def _read_history(path: Path, minival: str) -> pd.DataFrame:
    try:
        history = pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        raise ValueError(f"{path}: missing or empty, expected one line per epoch") from None
    except ValueError as error:  # pandas' own errors, and bytes that are no UTF-8
        raise ValueError(f"{path}: not CSV: {' '.join(str(error).split())}") from None
    absent = {"train_loss", minival} - set(history.columns)
    if absent or history.empty:
        raise ValueError(f"{path}: expected one line per epoch with columns train_loss and {minival}")
    if not np.isfinite(history["train_loss"].iloc[-1]):
        value = history["train_loss"].iloc[-1]
        raise ValueError(f"{path}: train_loss of the last epoch is {value}, expected a finite number")
    return history
