"""Gather the files of a study into long.parquet (every number) and fairness.json (what the numbers rest on)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel

from noah.config import Run, Study
from noah.config.files import parse
from noah.files import read_mapping, reading, write_atomic, write_json
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


class Provenance(BaseModel, extra="allow"):
    """What the reports take from provenance.json; what old runs lack has a default."""

    run_sha256: str
    manifests: dict[str, str]
    train_seconds: float
    evaluated_weights: Literal["last", "ema"]
    commit: str | None = None
    dirty: bool = False
    resumed_at_commits: list[str] = []
    versions: dict[str, str] = {}
    device: str | None = None
    evaluated_in: str | None = None
    threads: int | None = None
    world_size: int | None = None
    quarantine_share: dict[str, float] = {}
    finished: str | None = None


class _Group(BaseModel, extra="allow"):
    tensors: int | None = None


class ArmFacts(BaseModel, extra="allow"):
    """What the notes take apart of arm.json; the rest is only compared and shown."""

    weight_decay_groups: dict[str, _Group] | None = None


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


def _expect_number(path: Path, name: str, value) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    ):
        raise ValueError(f"{path}: {name}: got {str(value)[:100]!r}, expected a number or null")


def _expect_per_class(path: Path, run: Run, metrics: dict) -> None:
    name = _PER_CLASS[run.dataset.score]
    values = metrics.get(name)
    if values is None:
        return
    if not isinstance(values, list) or len(values) != run.dataset.num_classes:
        raise ValueError(f"{path}: {name}: expected a list of {run.dataset.num_classes} numbers")
    for value in values:
        _expect_number(path, name, value)


def run_folder(study: Study, run: Run) -> Path:
    return study.results / "runs" / run.key


def read_run(study: Study, run: Run) -> RunRecord:
    """What the folder of a run holds."""
    folder = run_folder(study, run)
    absent = [name for name in _RUN_FILES if not (folder / name).is_file()]
    if absent:
        return RunRecord(run, f"no {absent[0]}", {}, {}, {})
    metrics = read_mapping(folder / "metrics.json", "run_sha256", *RUN_METRICS[run.dataset.score][:-1])
    provenance, arm = read_mapping(folder / "provenance.json"), read_mapping(folder / "arm.json")
    parse(Provenance, provenance, folder / "provenance.json")
    parse(ArmFacts, arm, folder / "arm.json")
    for name in RUN_METRICS[run.dataset.score][:-1]:
        _expect_number(folder / "metrics.json", name, metrics[name])
    _expect_per_class(folder / "metrics.json", run, metrics)
    if provenance["run_sha256"] != run.hash:
        return RunRecord(run, "trained from another config", {}, {}, {})
    if metrics["run_sha256"] != run.hash:
        return RunRecord(run, "not scored since it was trained", {}, {}, {})
    return RunRecord(run, None, metrics, provenance, arm)


def _run_rows(record: RunRecord) -> list[tuple]:
    run, score = record.run, record.run.dataset.score
    name = (run.dataset.name, run.recipe_name, run.backbone.slug, run.backbone.width, run.arm, run.seed)
    values = {metric: {**record.provenance, **record.metrics}.get(metric) for metric in RUN_METRICS[score]}
    if other := record.metrics.get("other_weights"):
        values[f"{other['weights']}_{score}"] = other[score]
    if "minival" not in run.dataset.splits:
        del values[f"minival_{score}"]
    per_class = record.metrics.get(_PER_CLASS[score]) or [None] * run.dataset.num_classes
    values |= {f"{score}/{label}": value for label, value in zip(run.dataset.classes, per_class, strict=True)}
    return [(*name, metric, value, _status(value)) for metric, value in values.items()]


def _read_cost(study: Study, dataset: str, backbone: str) -> dict:
    path = study.results / "cost" / f"{dataset}-{backbone}.json"
    if not path.is_file():
        return {}
    cost = read_mapping(path, "arms")
    with reading(path):
        for arm in cost["arms"].values():
            for metric in COST_METRICS:
                _expect_number(path, metric, arm.get(metric))
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
