"""What runs leave and reports read."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path

from robustness.damage import of_bytes
from robustness.targets import OUT, RUN, Target, copied, each
from robustness.targets_data import json_damages, table_damages

from noah.config import load_study
from noah.evaluate.estimate import find_throughput
from noah.evaluate.metrics import score
from noah.report.collect import collect
from noah.report.comparison import compare
from noah.report.figures import write_figures
from noah.report.tables import write_tables
from noah.tracking.records import read_records

SEVERAL = Path("results/several-run")
COST = Path("results/tiny/cost/tiny-gmlp_tiny-d1-p8-w0.5.json")


def _csv_damages(good: bytes):
    return [of_bytes(good, b'"', b",", b"nan", b"inf", b"-1", b"1e999", b"\n", b"epoch", b"99999999999999999999")]


def _score(run: Path, dataset: str = "tiny") -> None:
    (copy,) = copied(run)
    score(copy, Path(f"shards/{dataset}/test/manifest.json"))


def _reports(*more: Callable) -> None:
    """Everything that a study's files become, in a copy of the project: it is written beside what it is made of."""
    copied("results", "config")
    with contextlib.chdir(OUT):
        study = load_study("tiny")
        each(
            *(functools.partial(make, study) for make in (collect, compare, write_tables, read_records, *more)),
            lambda: find_throughput(study, study.runs[0], {"macs": 1e6, "kept": 1e4}),
        )


def _shown(*first: Callable) -> None:
    """Tables and figures of what is collected and compared."""
    copied("results", "config")
    with contextlib.chdir(OUT):
        each(*(functools.partial(make, load_study("tiny")) for make in (*first, write_tables, write_figures)))


TARGETS = {
    "predictions.parquet": Target(f"{RUN}/predictions.parquet", table_damages, lambda: _score(RUN)),
    "multi-label predictions.parquet": Target(
        f"{SEVERAL}/predictions.parquet", table_damages, lambda: _score(SEVERAL, "several")
    ),
    "history.csv": Target(f"{RUN}/history.csv", _csv_damages, lambda: _score(RUN)),
    "provenance.json, scored with": Target(f"{RUN}/provenance.json", json_damages, lambda: _score(RUN)),
    "predictions.parquet, compared": Target(f"{RUN}/predictions.parquet", table_damages, _reports, 0.3),
    "history.csv, reported": Target(f"{RUN}/history.csv", _csv_damages, lambda: _reports(write_figures), 0.1),
    **{
        f"{name}, reported": Target(f"{RUN}/{name}", json_damages, _reports, 0.3)
        for name in ("metrics.json", "provenance.json", "arm.json")
    },
    "cost.json": Target(str(COST), json_damages, _reports, 0.3),
    "published.csv": Target("config/published/imagenet.csv", _csv_damages, _reports, 0.3),
    "long.parquet": Target("results/tiny/long.parquet", table_damages, lambda: _shown(compare), 0.3),
    "comparison.parquet": Target("results/tiny/comparison.parquet", table_damages, _shown, 0.3),
    "fairness.json": Target("results/tiny/fairness.json", json_damages, _shown, 0.3),
}
