"""Bring MLflow in line with the files. Again and again gives the same runs and the same points.

A run of MLflow is one training: it is found by the tags `noah.study`, `noah.run_key` and `noah.training` (a digest of
run.yaml and history.csv), for ids cannot be chosen. Parameters and curves are written once, while its status is
RUNNING, and adding the same point again adds nothing; final values and files are compared and follow the files. A run
that was trained again is a new run of MLflow; the old one is tagged `noah.superseded_by` and deleted, which MLflow can
undo.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from noah.config import Study
from noah.files import write_json
from noah.tracking.records import Record, read_records
from noah.tracking.store import (
    CLIENT_ENVIRONMENT,
    artifact_location,
    init_local_store,
    is_local,
    locked,
    tracking_uri,
    without_secrets,
)

METRICS_PER_BATCH = 1000
TAGS_PER_BATCH = 100  # of parameters too; both are limits of MLflow's server


def publish(study: Study) -> dict:
    """Publish every finished run of a study, its tables and figures, and write `study.results / "tracked.json"`.

    A server that cannot be reached, or that refuses, is one line on stderr and `status: unreachable`, never an error:
    the files are complete without it.

    Returns:
        What tracked.json holds: uri and message (without secrets), experiment, status ("ok" or "unreachable"), runs
        (run key to MLflow run id) and skipped (keys of runs that are not trained).

    Raises:
        ValueError: MLFLOW_TRACKING_URI is no address, or a file of the study cannot be read.
    """
    uri = tracking_uri()
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or study.slug
    records, skipped = read_records(study)
    runs: dict[str, str] = {}
    problem = ""
    if is_local(uri):
        init_local_store()
    with locked():
        client, errors = _client(uri)
        try:
            for record, run_id in _push(client, uri, experiment, study.slug, records):
                if record.kind == "arm":
                    runs[record.key] = run_id
        except errors as error:
            problem = without_secrets(str(error))[:500]
    if problem:
        print(f"noah: not published to {without_secrets(uri)}: {problem}", file=sys.stderr)
    tracked = {
        "uri": without_secrets(uri),
        "experiment": experiment,
        "status": "unreachable" if problem else "ok",
        "message": problem,
        "runs": runs,
        "skipped": skipped,
    }
    write_json(study.results / "tracked.json", tracked)
    return tracked


def _client(uri: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """An MlflowClient, and what it raises when the other side fails (requests' errors are OSErrors)."""
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would announce every retry
    return MlflowClient(uri), (MlflowException, OSError)


def _push(client, uri: str, experiment: str, study: str, records: list[Record]) -> Iterator[tuple[Record, str]]:
    """Yields each record with the id of its run, once that run is complete."""
    experiment_id = _experiment_id(client, uri, experiment)
    known = _known_runs(client, experiment_id, study)
    ids: dict[str, str] = {}
    for record in records:
        tags = {
            "noah.study": study,
            "noah.run_key": record.key,
            "noah.training": record.training,
            "noah.kind": record.kind,
            **record.tags,
        }
        if record.parent:
            tags["mlflow.parentRunId"] = ids[record.parent]
        candidates = known.get(record.key, [])
        same = [run for run in candidates if run.data.tags.get("noah.training") == record.training]
        run = same[0] if same else client.create_run(experiment_id, record.started_ms, tags, record.name)
        run_id = ids[record.key] = run.info.run_id
        _update(client, run, record, tags)
        for old in candidates:
            if old.info.run_id != run_id:
                client.set_tag(old.info.run_id, "noah.superseded_by", run_id)
                client.delete_run(old.info.run_id)
        yield record, run_id


def _experiment_id(client, uri: str, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return client.create_experiment(name, artifact_location(uri, name))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _known_runs(client, experiment_id: str, study: str) -> dict[str, list]:
    """The study's runs by key, oldest first; deleted ones are not among them."""
    known: dict[str, list] = {}
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`noah.study` = '{study}'", order_by=["attributes.start_time ASC"], page_token=token
        )
        for run in page:
            known.setdefault(run.data.tags["noah.run_key"], []).append(run)
        token = page.token
        if not token:
            return known


def _update(client, run, record: Record, tags: dict[str, str]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    run_id = run.info.run_id
    now_ms = round(time.time() * 1000)
    # Step 0 alone makes the page compare runs by bars. The later of two points of one step counts as the current value.
    metrics = [
        Metric(name, value, now_ms, 0) for name, value in record.final.items() if run.data.metrics.get(name) != value
    ]
    changed = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]
    params = []
    unfinished = run.info.status == "RUNNING"
    if unfinished:
        metrics += [Metric(point.metric, point.value, point.time_ms, point.epoch) for point in record.history]
        params = [Param(name, value) for name, value in record.params.items()]
    for some in _batches(metrics, METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=some)
    for some in _batches(params, TAGS_PER_BATCH):
        client.log_batch(run_id, params=some)
    for some in _batches(changed, TAGS_PER_BATCH):
        client.log_batch(run_id, tags=some)

    digest = record.artifacts_digest
    if run.data.tags.get("noah.artifacts") != digest:
        for path, folder in record.artifacts:
            client.log_artifact(run_id, str(path), folder)
        client.set_tag(run_id, "noah.artifacts", digest)
    if unfinished:
        client.set_terminated(run_id, "FINISHED", record.finished_ms)


def _batches(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))
