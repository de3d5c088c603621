"""Bring MLflow in line with the files. Again and again gives the same runs and the same points.

A run of MLflow is one training: it is found by the tags `noah.study`, `noah.run_key` and `noah.training` (a digest of
run.yaml and history.csv). Parameters and curves are written once, while its status is RUNNING, and adding the same
point again adds nothing; final values and files are compared and follow the files. A live run (noah.tracking.live)
that shows the training is completed and becomes its run. A run that was trained again is a new run of MLflow; the old
one is tagged `noah.superseded_by` and deleted, which MLflow can undo.
"""

import os
import sys
import time
from collections.abc import Iterator

from noah.config import Study
from noah.files import write_json
from noah.redact import without_secrets
from noah.tracking.records import Point, Record, read_records
from noah.tracking.runs import (
    add_params,
    add_points,
    connect,
    experiment_id,
    is_live,
    known_runs,
    set_tags,
    shows,
    supersede,
)
from noah.tracking.store import init_local_store, is_local, locked, tracking_uri


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
    experiment = experiment_name(study)
    records, skipped = read_records(study)
    runs: dict[str, str] = {}
    problem = ""
    if is_local(uri):
        init_local_store()
    errors: tuple[type[Exception], ...] = (OSError,)
    with locked():
        try:
            client, errors = connect(uri)
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


def experiment_name(study: Study) -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or study.slug


def _push(client, uri: str, experiment: str, study: str, records: list[Record]) -> Iterator[tuple[Record, str]]:
    """Yields each record with the id of its run, once that run is complete."""
    experiment = experiment_id(client, uri, experiment)
    known = known_runs(client, experiment, study)
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
        run = _run_of(client, record, candidates)
        if run is None:
            run = client.create_run(experiment, record.started_ms, tags, record.name)
        run_id = ids[record.key] = run.info.run_id
        _update(client, run, record, tags)
        for old in candidates:
            trained_again_just_now = is_live(old) and old.info.start_time > record.finished_ms
            if old.info.run_id != run_id and not trained_again_just_now:
                supersede(client, old, run_id)
        yield record, run_id


def _run_of(client, record: Record, candidates: list):
    """The run of MLflow that is this record, or the live one that becomes it."""
    for run in candidates:
        if run.data.tags.get("noah.training") == record.training:
            return run
    for run in candidates:
        if is_live(run) and shows(client, run, record.tags["config_sha256"], record.history):
            return run
    return None


def _update(client, run, record: Record, tags: dict[str, str]) -> None:
    run_id = run.info.run_id
    now_ms = round(time.time() * 1000)
    # Step 0 alone makes the page compare runs by bars. The later of two points of one step counts as the current value.
    points = [
        Point(name, value, now_ms, 0) for name, value in record.final.items() if run.data.metrics.get(name) != value
    ]
    unfinished = run.info.status == "RUNNING"
    if unfinished:
        add_points(client, run_id, [*points, *record.history])
        add_params(client, run_id, record.params)
    else:
        add_points(client, run_id, points)
    set_tags(client, run_id, {name: value for name, value in tags.items() if run.data.tags.get(name) != value})

    digest = record.artifacts_digest
    if run.data.tags.get("noah.artifacts") != digest:
        for path, folder in record.artifacts:
            client.log_artifact(run_id, str(path), folder)
        client.set_tag(run_id, "noah.artifacts", digest)
    if unfinished:
        client.set_terminated(run_id, "FINISHED", record.finished_ms)
