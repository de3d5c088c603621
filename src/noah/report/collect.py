"""Gather the files of a study into long.parquet (every number) and fairness.json (what the numbers rest on)."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from noah.config import Run, Study
from noah.files import read_json, write_atomic, write_json
from noah.report.fairness import fairness

RUN_METRICS = {
    "top1": ("top1", "top5", "loss", "minival_top1", "final_train_loss", "train_seconds"),
    "map": (
        *("map", "cp", "cr", "cf1", "op", "or", "of1", "cf1_top3", "of1_top3", "cf1_chosen", "of1_chosen"),
        *("loss", "minival_map", "final_train_loss", "train_seconds"),
    ),
}
"""By the score of the run's dataset."""
_PER_CLASS = {"top1": "per_class_top1", "map": "per_class_ap"}
COST_METRICS = (
    "parameters",
    "head_parameters",
    "macs",
    "head_macs",
    "latency_ms_p50",
    "latency_ms_p95",
    "images_per_s",
    "train_images_per_s",
    "peak_memory_mib",
)
COLUMNS = {
    "dataset": "string",
    "recipe": "string",
    "backbone": "string",
    "width": "float64",
    "arm": "string",
    "seed": "Int64",
    "metric": "string",
    "value": "float64",
    "status": "string",
}
"""Of long.parquet. Costs belong to no seed and no recipe: both are null there."""

_RUN_FILES = ("metrics.json", "predictions.parquet", "history.csv", "provenance.json", "arm.json")


@dataclass(frozen=True)
class RunRecord:
    """What a run left behind; the dicts are empty where the run does not count."""

    run: Run
    missing: str | None
    """Why the run does not count, or None."""
    metrics: dict
    provenance: dict
    arm: dict


def collect(study: Study) -> None:
    """Write `{study.results}/long.parquet` and `fairness.json`.

    Every expected run has its rows; a run that has not finished, or was trained from another config than the study's
    present one, has status `missing` and no value.

    Raises:
        ValueError: A file of a run is no JSON, or lacks a field.
    """
    records = [read_run(study, run) for run in study.runs]
    costs = {
        pair: _read_cost(study, *pair) for pair in dict.fromkeys((r.dataset.name, r.backbone.slug) for r in study.runs)
    }
    rows = [row for record in records for row in _run_rows(record)]
    rows += [row for (dataset, backbone), cost in costs.items() for row in _cost_rows(study, dataset, backbone, cost)]
    long = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    with write_atomic(study.results / "long.parquet") as temporary:
        long.to_parquet(temporary, index=False)
    write_json(study.results / "fairness.json", fairness(study, records, [cost for cost in costs.values() if cost]))


def run_folder(study: Study, run: Run) -> Path:
    return study.results / "runs" / run.key


def read_run(study: Study, run: Run) -> RunRecord:
    """What the folder of a run holds."""
    folder = run_folder(study, run)
    absent = [name for name in _RUN_FILES if not (folder / name).is_file()]
    if absent:
        return RunRecord(run, f"no {absent[0]}", {}, {}, {})
    metrics, provenance, arm = (read_json(folder / f"{name}.json") for name in ("metrics", "provenance", "arm"))
    for name, content, fields in (
        ("metrics", metrics, ("run_sha256", *RUN_METRICS[run.dataset.score][:-1])),
        ("provenance", provenance, ("run_sha256", "manifests", "train_seconds", "evaluated_weights")),
    ):
        for field in fields:
            if field not in content:
                raise ValueError(f"{folder / f'{name}.json'}: missing key '{field}'")
    if provenance["run_sha256"] != run.hash:
        return RunRecord(run, "trained from another config", {}, {}, {})
    if metrics["run_sha256"] != run.hash:
        return RunRecord(run, "not scored since it was trained", {}, {}, {})
    return RunRecord(run, None, metrics, provenance, arm)


def _run_rows(record: RunRecord) -> list[tuple]:
    run, score = record.run, record.run.dataset.score
    name = (run.dataset.name, run.recipe_name, run.backbone.slug, run.backbone.width, run.arm, run.seed)
    values = {metric: {**record.provenance, **record.metrics}.get(metric) for metric in RUN_METRICS[score]}
    if "minival" not in run.dataset.splits:
        del values[f"minival_{score}"]
    per_class = record.metrics.get(_PER_CLASS[score]) or [None] * run.dataset.num_classes
    values |= {f"{score}/{label}": value for label, value in zip(run.dataset.classes, per_class, strict=True)}
    return [(*name, metric, value, _status(value)) for metric, value in values.items()]


def _read_cost(study: Study, dataset: str, backbone: str) -> dict:
    path = study.results / "cost" / f"{dataset}-{backbone}.json"
    if not path.is_file():
        return {}
    cost = read_json(path)
    if not isinstance(cost.get("arms"), dict):
        raise ValueError(f"{path}: missing key 'arms'")
    return cost if cost.get("config_sha256") == study.cost_hash(dataset, backbone) else {}


def _cost_rows(study: Study, dataset: str, backbone: str, cost: dict) -> list[tuple]:
    rows = []
    for run in study.arms_of(dataset, backbone):
        measured = cost.get("arms", {}).get(run.arm, {})
        for metric in COST_METRICS:
            value = measured.get(metric)
            rows.append((dataset, None, backbone, run.backbone.width, run.arm, None, metric, value, _status(value)))
    return rows


def _status(value: float | None) -> str:
    return "missing" if value is None else "ok"
