"""What is published, read from a study's files. Knows nothing of MLflow but the names of its tags."""

import csv
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from noah.config import Run, Study
from noah.config.files import read_yaml
from noah.files import read_mapping, reading, sha256_file

TRAINED = ("run.yaml", "history.csv", "arm.json", "provenance.json")
"""What `noah train` leaves: a run that lacks one of them is not published."""
SMALL_FILES = (*TRAINED, "metrics.json")
COMPARISON = "comparison.parquet"
_TEST_METRICS = {"top1": ("top1", "top5", "loss"), "map": ("map", "cf1", "of1", "loss")}
NOT_METRICS = ("epoch", "step", "time")


class Point(NamedTuple):
    metric: str
    value: float
    time_ms: int
    epoch: int


@dataclass(frozen=True)
class Record:
    """One run of MLflow.

    Args:
        key: Names it within the study; for a trained run, its `Run.key`.
        kind: `arm` (a trained run), `backbone` (the parent of its arms) or `study` (tables and figures).
        name: What the page shows.
        training: Digest of what a run of MLflow can never change: its parameters and its history.
        started_ms: Unix milliseconds, as `finished_ms`.
        parent: Key of the parent's record.
        history: Points of the training, one per metric and finished epoch.
        final: Metrics of one value each, which scoring or measuring again may change.
        artifacts: Files, each with the folder of the page that shows it.
    """

    key: str
    kind: str
    name: str
    training: str
    started_ms: int
    finished_ms: int
    parent: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    history: tuple[Point, ...] = ()
    final: dict[str, float] = field(default_factory=dict)
    artifacts: tuple[tuple[Path, str | None], ...] = ()

    @property
    def artifacts_digest(self) -> str:
        return _digest(f"{folder}/{path.name} {sha256_file(path)}" for path, folder in self.artifacts)


def read_records(study: Study) -> tuple[list[Record], list[str]]:
    """Everything under `study.results` that can be published, parents before children, and the keys of missing runs.

    Raises:
        ValueError: A file that is there but cannot be read; the message names file and field.
    """
    groups: dict[str, list[Record]] = {}
    skipped = []
    for run in study.runs:
        folder = study.results / "runs" / run.key
        if _is_trained(run, folder):
            parent = f"{run.dataset.name}/{run.backbone.slug}"
            groups.setdefault(parent, []).append(_arm(study, run, folder, parent))
        else:
            skipped.append(run.key)
    found = _differences(study)
    records = [record for parent, arms in groups.items() for record in (_backbone(study, parent, arms, found), *arms)]
    return [*_tables(study, records), *records], skipped


def run_name(run: Run) -> str:
    return f"{run.arm}/s{run.seed} {run.backbone.slug}"


def run_tags(run: Run) -> dict[str, str]:
    """What is known of a run before it is trained."""
    return {
        "dataset": run.dataset.name,
        "backbone": run.backbone.slug,
        "recipe": run.recipe_name,
        "arm": run.arm,
        "seed": str(run.seed),
        "config_sha256": run.hash,
    }


def run_params(data: dict, prefix: str = "") -> dict[str, str]:
    """The scalars of a run.yaml, as `recipe.lr`: lists (class names, pixel means) say little in a table of runs."""
    flat: dict[str, str] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= run_params(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float | bool):
            flat[f"{prefix}{name}"] = str(value)
    return flat


def epoch_points(row: Mapping[str, Any]) -> list[Point]:
    """The points of one line of history.csv, of text or of numbers; what was not measured is none.

    Raises:
        ValueError, TypeError, OverflowError: No number where there has to be one.
    """
    epoch, time_ms = int(row["epoch"]), round(float(row["time"]) * 1000)
    values = {name: float(value) for name, value in row.items() if name not in NOT_METRICS and value not in (None, "")}
    return [Point(name, value, time_ms, epoch) for name, value in values.items() if not math.isnan(value)]


def _is_trained(run: Run, folder: Path) -> bool:
    """Whether the folder holds this run, not one of an earlier config."""
    if not all((folder / name).is_file() for name in TRAINED):
        return False
    return _read(folder / "provenance.json", "run_sha256")["run_sha256"] == run.hash


def _arm(study: Study, run: Run, folder: Path, parent: str) -> Record:
    provenance = _read(folder / "provenance.json", "commit", "run_sha256", "manifests", "started", "finished")
    with reading(folder / "provenance.json"):
        data_sha256 = str(provenance["manifests"].get("train", ""))
    return Record(
        key=run.key,
        kind="arm",
        name=run_name(run),
        training=_digest(sha256_file(folder / name) for name in ("run.yaml", "history.csv")),
        started_ms=_milliseconds(folder / "provenance.json", provenance["started"]),
        finished_ms=_milliseconds(folder / "provenance.json", provenance["finished"]),
        parent=parent,
        tags={
            **run_tags(run),
            "commit": f"{provenance['commit']}{'-dirty' if provenance.get('dirty') else ''}",
            "data_sha256": data_sha256,
        },
        params=run_params(read_yaml(folder / "run.yaml")),
        history=_history(folder / "history.csv"),
        final=_final(study, run, folder),
        artifacts=tuple((folder / name, None) for name in SMALL_FILES if (folder / name).is_file()),
    )


def _differences(study: Study) -> dict[str, str]:
    """`dataset/backbone` -> what its page says: every difference with its interval and verdict; empty before that."""
    if not (study.results / COMPARISON).is_file():
        return {}
    # A second to import, which every training that logs live would pay.
    from noah.report.comparison_table import read_comparison
    from noah.report.tables import delta, verdict_cell

    comparison = read_comparison(study)
    lines: dict[str, list[str]] = {}
    for _, pair in comparison[comparison["kind"] == "pair"].iterrows():
        recipe = f" with {pair['recipe']}" if len(study.spec.recipes) > 1 else ""
        text = f"- {pair['from']} → {pair['to']}{recipe}: {delta(pair)} points, {verdict_cell(pair)}"
        lines.setdefault(f"{pair['dataset']}/{pair['backbone']}", []).append(text)
    return {key: "\n".join(["Δ with its 95% interval:", *of_key]) for key, of_key in lines.items()}


def _backbone(study: Study, key: str, arms: list[Record], differences: dict[str, str]) -> Record:
    dataset, backbone = key.split("/")
    cost = _cost_file(study, dataset, backbone)
    return Record(
        key=key,
        kind="backbone",
        name=f"{backbone} on {dataset}",
        training=key,
        started_ms=min(arm.started_ms for arm in arms),
        finished_ms=max(arm.finished_ms for arm in arms),
        tags={
            "dataset": dataset,
            "backbone": backbone,
            **({"mlflow.note.content": differences[key]} if key in differences else {}),
        },
        artifacts=((cost, "cost"),) if cost.is_file() else (),
    )


def _tables(study: Study, records: list[Record]) -> list[Record]:
    files = [(path, name) for name in ("tables", "figures") for path in sorted((study.results / name).glob("[!.]*"))]
    files.append((study.results / COMPARISON, "tables"))
    artifacts = tuple((path, name) for path, name in files if path.is_file())
    if not artifacts or not records:
        return []
    start, end = min(record.started_ms for record in records), max(record.finished_ms for record in records)
    return [Record("tables", "study", "tables and figures", "tables", start, end, artifacts=artifacts)]


def _final(study: Study, run: Run, folder: Path) -> dict[str, float]:
    arm = _read(folder / "arm.json", "parameters", "head_parameters")
    final = {name: arm[name] for name in ("parameters", "head_parameters")}
    if (folder / "metrics.json").is_file():
        names = _TEST_METRICS[run.dataset.score]
        metrics = _read(folder / "metrics.json", *names)
        final |= {f"test_{name}": metrics[name] for name in names}
        if other := metrics.get("other_weights"):
            final |= {f"test_{name}_{other['weights']}": other[name] for name in names}
    cost = _cost_file(study, run.dataset.name, run.backbone.slug)
    if cost.is_file():
        with reading(cost):
            measured = dict(_read(cost, "arms")["arms"].get(run.arm, {}))
        measured.pop("kernel", None)  # a name, where metrics are numbers
        if "images_per_s" in measured:  # the training's own curve has that name
            measured["inference_images_per_s"] = measured.pop("images_per_s")
        final |= measured
    with reading(folder):
        return {name: float(value) for name, value in final.items() if value is not None}


def _cost_file(study: Study, dataset: str, backbone: str) -> Path:
    return study.results / "cost" / f"{dataset}-{backbone}.json"


def _history(path: Path) -> tuple[Point, ...]:
    points = []
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = {"epoch", "time"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: missing column '{min(missing)}'")
        for row in rows:
            try:
                points += epoch_points(row)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"{path}: line {rows.line_num}: got {row}, expected numbers") from None
    return tuple(points)


def _read(path: Path, *fields: str) -> dict:
    return read_mapping(path, *fields)


def _milliseconds(path: Path, iso: str) -> int:
    try:
        return round(datetime.fromisoformat(iso).timestamp() * 1000)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: got time {iso!r}, expected ISO 8601 in UTC") from None


def _digest(parts) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
