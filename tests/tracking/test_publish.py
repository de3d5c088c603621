"""Publishing to a local SQLite store: no services."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from tracking_study import EPOCHS, fake_results, fake_run

from noah.files import read_json, write_json
from noah.tracking import init_local_store, publish, serve

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'noah[workflow]'")


@pytest.fixture
def study(untrained):
    """The tiny study, all results there."""
    fake_results(untrained)
    return untrained


def runs_of(client, name="tiny", query=""):
    experiment = client.get_experiment_by_name(name)
    return list(client.search_runs([experiment.experiment_id], query))


def snapshot(client):
    """Everything MLflow shows of the experiment: per run its parameters, tags, status and every point."""
    return {
        run.info.run_id: (
            run.data.params,
            run.data.tags,
            run.info.status,
            {name: points(client, run.info.run_id, name) for name in run.data.metrics},
        )
        for run in runs_of(client)
    }


def points(client, run_id, metric):
    return [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, metric)]


def test_publishing_twice_gives_the_same_runs_and_points(study, client):
    first = publish(study)
    before, file = snapshot(client), (study.results / "tracked.json").read_bytes()
    assert publish(study) == first
    assert snapshot(client) == before
    assert (study.results / "tracked.json").read_bytes() == file
    assert len(before) == len(study.runs) + 2 + 1
    assert list(first["runs"]) == [run.key for run in study.runs]


def test_a_curve_has_one_point_per_epoch_at_its_time(study, client):
    runs = publish(study)["runs"]
    curve = points(client, runs[study.runs[0].key], "train_loss")
    assert curve == [(epoch, 1_700_000_000_000 + 10_000 * epoch, 2.0 / epoch) for epoch in range(1, EPOCHS + 1)]
    assert [step for step, _, _ in points(client, runs[study.runs[0].key], "minival_top1")] == [EPOCHS]


def test_arms_stand_under_the_backbone_they_share(study, client):
    runs = publish(study)["runs"]
    parents = {client.get_run(id).data.tags["mlflow.parentRunId"] for id in runs.values()}
    assert {client.get_run(id).data.tags["noah.run_key"] for id in parents} == {
        "digits/mobilenetv2-w0.35",
        "digits/deit_tiny-d6-w0.5",
    }
    first = client.get_run(runs[study.runs[0].key])
    assert client.get_run(first.data.tags["mlflow.parentRunId"]).data.tags["backbone"] == first.data.tags["backbone"]


def test_a_run_carries_its_config_origin_and_results(study, client):
    run = study.runs[2]
    shown = client.get_run(publish(study)["runs"][run.key])
    expected = {
        "noah.run_key": run.key,
        "dataset": "digits",
        "backbone": "mobilenetv2-w0.35",
        "recipe": "short",
        "arm": "noah",
        "seed": "0",
        "commit": "0123abcd",
        "config_sha256": run.hash,
        "data_sha256": "f" * 64,
    }
    assert expected.items() <= shown.data.tags.items()
    assert shown.data.params["recipe.lr"] == str(run.recipe.lr)
    assert shown.data.params["head.num_heads"] == "8"
    finals = {"test_top1": 80.0, "parameters": 4e5, "macs": 1e6, "inference_images_per_s": 400.0, "images_per_s": 900.5}
    assert finals.items() <= shown.data.metrics.items()
    files = {file.path for file in client.list_artifacts(shown.info.run_id)}
    assert files == {"run.yaml", "history.csv", "arm.json", "provenance.json", "metrics.json"}
    assert shown.info.status == "FINISHED"


def test_tables_and_figures_are_files_of_the_study_run_and_follow_a_change(study, client):
    publish(study)
    [shown] = runs_of(client, query="tags.`noah.kind` = 'study'")
    (study.results / "tables" / "digits.md").write_text("new")
    (study.results / "figures" / "deltas.svg").write_text("<svg/>")
    publish(study)
    assert client.download_artifacts(shown.info.run_id, "tables/digits.md").endswith("digits.md")
    with open(client.download_artifacts(shown.info.run_id, "tables/digits.md")) as file:
        assert file.read() == "new"
    figures = {file.path for file in client.list_artifacts(shown.info.run_id, "figures")}
    assert figures == {"figures/curves.svg", "figures/deltas.svg"}


@pytest.mark.parametrize("top1", [79.0, 81.0])
def test_a_run_scored_again_shows_the_new_score_in_the_same_run(study, client, top1):
    run = study.runs[0]
    run_id = publish(study)["runs"][run.key]
    path = study.results / "runs" / run.key / "metrics.json"
    other = {"weights": "ema", "top1": 83.0, "top5": 99.0, "loss": 0.5}
    write_json(path, {**read_json(path), "top1": top1, "other_weights": other})
    time.sleep(0.002)
    assert publish(study)["runs"][run.key] == run_id
    shown = client.get_run(run_id).data.metrics
    assert (shown["test_top1"], shown["test_top1_ema"]) == (top1, 83.0)
    assert len(points(client, run_id, "test_loss")) == 1


def test_a_run_trained_again_replaces_the_old_one(study, client):
    run = study.runs[0]
    old = publish(study)["runs"][run.key]
    changed = run.model_copy(update={"recipe": run.recipe.model_copy(update={"lr": 0.5})})
    fake_run(study, changed, start=1_800_000_000.0)
    skipped = publish(study)
    assert skipped["skipped"] == [run.key], "the folder holds a run that the study no longer asks for"
    study = replace(study, runs=(changed, *study.runs[1:]))
    new = publish(study)["runs"][run.key]
    assert new != old
    assert client.get_run(new).data.params["recipe.lr"] == "0.5"
    assert client.get_run(old).info.lifecycle_stage == "deleted"
    assert client.get_run(old).data.tags["noah.superseded_by"] == new
    assert len(runs_of(client)) == len(study.runs) + 3


def test_an_interrupted_publication_is_completed_without_a_second_run(study, client, monkeypatch):
    from mlflow import MlflowClient

    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return log_artifact(self, *args, **kwargs)

    log_artifact = MlflowClient.log_artifact
    monkeypatch.setattr(MlflowClient, "log_artifact", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(study)
    assert len(runs_of(client, query="attributes.status = 'RUNNING'")) == 1
    monkeypatch.undo()
    monkeypatch.chdir(study.path.parents[2])
    publish(study)
    assert len(runs_of(client)) == len(study.runs) + 3
    assert not runs_of(client, query="attributes.status = 'RUNNING'")
    for run in runs_of(client, query="tags.`noah.kind` = 'arm'"):
        assert len(points(client, run.info.run_id, "lr")) == EPOCHS


def test_runs_that_are_not_trained_are_skipped_and_listed(study, client):
    missing, unscored = study.runs[1], study.runs[2]
    shutil.rmtree(study.results / "runs" / missing.key)
    (study.results / "runs" / unscored.key / "metrics.json").unlink()
    tracked = publish(study)
    assert tracked["skipped"] == [missing.key]
    assert set(tracked["runs"]) == {run.key for run in study.runs} - {missing.key}
    assert "test_top1" not in client.get_run(tracked["runs"][unscored.key]).data.metrics


def test_a_run_or_experiment_deleted_by_hand_comes_back(study, client):
    first = publish(study)["runs"]
    client.delete_run(first[study.runs[0].key])
    again = publish(study)["runs"]
    assert again[study.runs[0].key] != first[study.runs[0].key]
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    assert publish(study)["status"] == "ok"
    assert len(runs_of(client)) == len(study.runs) + 3


@pytest.mark.parametrize("listening", [False, True], ids=["closed port", "silent server"])
def test_an_unreachable_server_is_one_warning_without_secrets(study, monkeypatch, capsys, listening):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:geheim@127.0.0.1:{server.getsockname()[1]}/x?token=abc")
        start = time.monotonic()
        tracked = publish(study)
    assert time.monotonic() - start < 15
    assert tracked["status"] == "unreachable"
    assert tracked["message"]
    assert tracked["runs"] == {}
    assert read_json(study.results / "tracked.json") == tracked
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    for secret in ("geheim", "abc", "me:"):
        assert secret not in json.dumps(tracked) + warning


def test_a_plain_folder_or_database_server_is_refused_before_anything_else(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:geheim@db/mlflow")
    with pytest.raises(
        ValueError, match=r"^MLFLOW_TRACKING_URI is 'postgresql://db/mlflow', expected http://"
    ) as error:
        publish(study)
    assert "geheim" not in str(error.value)


def test_a_server_is_not_served_twice(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    with pytest.raises(ValueError, match="a server already"):
        serve()


@pytest.mark.parametrize(("options", "host"), [({}, "127.0.0.1"), ({"host": "0.0.0.0"}, "0.0.0.0")])
def test_others_are_served_only_when_asked_for_and_after_a_warning(study, monkeypatch, capsys, options, host):
    started = []
    monkeypatch.setattr(os, "execv", lambda _, command: started.extend(command))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    serve(**options)
    assert started[started.index("--host") + 1] == host
    warning = capsys.readouterr().err
    assert bool(warning) == (host != "127.0.0.1")
    assert not warning or "can read, change and delete runs" in warning


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("history.csv", "epoch,lr\n1,0.1\n", "missing column 'time'"),
        ("history.csv", "epoch,time,lr\n1,5.0,fast\n", "line 2: .*expected numbers"),
        ("metrics.json", "{", "not JSON"),
        ("metrics.json", "{}", "missing key 'top1'"),
    ],
)
def test_a_damaged_file_is_named(study, name, content, message):
    path = study.results / "runs" / study.runs[0].key / name
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}: {message}"):
        publish(study)


def test_initialising_from_two_processes_at_once_leaves_one_usable_store(tmp_path):
    code = "from noah.tracking import init_local_store; print(init_local_store())"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    addresses = {process.communicate()[0].strip() for process in processes}
    assert addresses == {f"sqlite:///{tmp_path}/mlruns/mlflow.db"}
    assert sorted(path.name for path in (tmp_path / "mlruns").iterdir()) == [".lock", "mlflow.db"]

    from mlflow import MlflowClient

    client = MlflowClient(addresses.pop())
    assert client.get_experiment(client.create_experiment("usable")).name == "usable"


def test_a_store_that_exists_is_left_as_it_is(tmp_path, empty_store):
    before = empty_store.stat().st_mtime_ns
    init_local_store(empty_store.parents[1])
    assert empty_store.stat().st_mtime_ns == before
