"""Runs on a tracking server: how they are found again, and written to so that twice is the same as once.

A run of MLflow is one training. It is found by tags, for ids cannot be chosen. `noah track` gives it the tag
`noah.training`; before that it is live, and belongs to a training if it holds no point that the training does not.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from noah.tracking.records import Point
from noah.tracking.store import CLIENT_ENVIRONMENT, artifact_location

METRICS_PER_BATCH = 1000
TAGS_PER_BATCH = 100  # of parameters too; both are limits of MLflow's server


def connect(uri: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """An MlflowClient, and what it raises when the other side fails (requests' errors are OSErrors).

    Raises:
        ConnectionError: A database that cannot be opened, for example on a full disk.
    """
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would announce every retry
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # it would print a trace before it raises
    try:
        return MlflowClient(uri), (MlflowException, OSError)
    except MlflowException as error:
        raise ConnectionError(str(error)) from None


def experiment_id(client, uri: str, name: str) -> str:
    """Of the experiment with that name; it is made, or restored, where there is none."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location(uri, name))
        except MlflowException as error:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise error from None
            # Another process was faster.
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def known_runs(client, experiment: str, study: str, key: str | None = None) -> dict[str, list]:
    """The study's runs (or those of one key) by key, oldest first; deleted ones are not among them.

    Args:
        experiment: Its id.
    """
    query = f"tags.`noah.study` = '{study}'" + (f" and tags.`noah.run_key` = '{key}'" if key else "")
    known: dict[str, list] = {}
    token = None
    while True:
        page = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"], page_token=token)
        for run in page:
            known.setdefault(run.data.tags["noah.run_key"], []).append(run)
        token = page.token
        if not token:
            return known


def is_live(run) -> bool:
    return "noah.training" not in run.data.tags


def shows(client, run, config_sha256: str, history: Iterable[Point]) -> bool:
    """Whether a live run shows this training, or its beginning, and nothing else.

    A training that was killed and resumed repeats the epochs after its last checkpoint. Their points have other times
    than those that the killed attempt had sent, and a point that MLflow holds can never be taken back.
    """
    if run.data.tags.get("config_sha256") != config_sha256:
        return False
    if not run.data.metrics:
        return True
    # All points of an epoch have its time and arrive together, the first metric first.
    first, times = None, set()
    for point in history:
        first = first or point.metric
        if point.metric == first:
            times.add((point.epoch, point.time_ms))
    if first not in run.data.metrics:
        return False
    return {(point.step, point.timestamp) for point in client.get_metric_history(run.info.run_id, first)} <= times


def supersede(client, old, run_id: str) -> None:
    """Delete a run, which MLflow can undo, and note which one took its place."""
    client.set_tag(old.info.run_id, "noah.superseded_by", run_id)
    client.delete_run(old.info.run_id)


def add_points(client, run_id: str, points: Iterable[Point]) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(point.metric, point.value, point.time_ms, point.epoch) for point in points]
    for some in _batches(metrics, METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=some)


def add_params(client, run_id: str, params: dict[str, str]) -> None:
    from mlflow.entities import Param

    for some in _batches([Param(name, value) for name, value in params.items()], TAGS_PER_BATCH):
        client.log_batch(run_id, params=some)


def set_tags(client, run_id: str, tags: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    for some in _batches([RunTag(name, value) for name, value in tags.items()], TAGS_PER_BATCH):
        client.log_batch(run_id, tags=some)


def _batches(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))
