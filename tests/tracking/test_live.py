"""Live curves: what `noah track` makes of them, and what a bad server costs a training."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from tracking_study import EPOCHS, fake_results, fake_run

from noah.tracking import live, publish, tracking_uri
from noah.tracking.records import epoch_points
from noah.tracking.runs import add_points, is_live, known_runs

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'noah[workflow]'")


@pytest.fixture
def study(untrained):
    """The tiny study with the results of its first run."""
    fake_run(untrained, untrained.runs[0], 1_700_000_000.0)
    return untrained


def history_of(study) -> list[dict]:
    with open(study.results / "runs" / study.runs[0].key / "history.csv", newline="") as file:
        return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]


def later(rows: list[dict], seconds: float = 5.0) -> list[dict]:
    """The same epochs, trained once more."""
    return [{**row, "time": row["time"] + seconds} for row in rows]


def send(client, study, rows: list[dict]) -> str:
    """What the sender of one attempt does, against the local store; returns the run it wrote to."""
    points = [point for row in rows for point in epoch_points(row)]
    run_id = live.live_run(client, tracking_uri(), live.header_of(study, study.runs[0]), points)
    add_points(client, run_id, points)
    return run_id


def arms(client, study) -> list:
    experiment = client.get_experiment_by_name(study.slug).experiment_id
    return known_runs(client, experiment, study.slug).get(study.runs[0].key, [])


def curves(client, run_id: str) -> dict:
    names = ("lr", "train_loss", "images_per_s", "minival_loss", "minival_top1")
    return {
        name: sorted((point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, name))
        for name in names
    }


def expected_curves(rows: list[dict]) -> dict:
    found: dict = {}
    for row in rows:
        for point in epoch_points(row):
            found.setdefault(point.metric, []).append((point.epoch, point.time_ms, point.value))
    return found


@pytest.mark.parametrize("sent", [1, EPOCHS])
def test_a_live_run_becomes_the_published_run_and_has_every_point_once(study, client, sent):
    rows = history_of(study)
    run_id = send(client, study, rows[:sent])
    before = client.get_run(run_id)
    assert is_live(before)
    assert before.data.tags["arm"] == "baseline"
    assert before.data.params["recipe.lr"] == str(study.runs[0].recipe.lr)
    for _ in range(2):
        assert publish(study)["runs"] == {study.runs[0].key: run_id}
    after = client.get_run(run_id)
    assert curves(client, run_id) == expected_curves(rows)
    assert (after.info.status, is_live(after)) == ("FINISHED", False)
    assert client.get_run(after.data.tags["mlflow.parentRunId"]).data.tags["noah.kind"] == "backbone"
    assert len(arms(client, study)) == 1


def test_a_resumed_training_goes_on_in_its_run(study, client):
    rows = history_of(study)
    assert send(client, study, rows[:1]) == send(client, study, rows[:2]) == send(client, study, rows)
    assert len(arms(client, study)) == 1


def test_epochs_that_are_trained_again_after_a_kill_get_a_run_without_the_lost_ones(study, client):
    rows = history_of(study)
    lost = send(client, study, [rows[0], *later(rows[1:], -5.0)])
    run_id = send(client, study, rows[:2])
    assert run_id != lost
    assert client.get_run(lost).data.tags["noah.superseded_by"] == run_id
    assert [run.info.run_id for run in arms(client, study)] == [run_id]
    publish(study)
    assert curves(client, run_id) == expected_curves(rows)


def test_points_of_a_killed_attempt_that_arrive_late_are_left_behind_by_publishing(study, client):
    rows = history_of(study)
    run_id = send(client, study, rows)
    add_points(client, run_id, [point for row in later(rows[1:2]) for point in epoch_points(row)])
    published = publish(study)["runs"][study.runs[0].key]
    assert published != run_id
    assert curves(client, published) == expected_curves(rows)
    assert [run.info.run_id for run in arms(client, study)] == [published]


def test_the_run_of_a_training_that_has_just_begun_anew_is_left_alone(study, client):
    old = publish(study)["runs"][study.runs[0].key]
    new = send(client, study, later(history_of(study)[:1], time.time() - 1_700_000_000))
    assert publish(study)["runs"][study.runs[0].key] == old
    assert {run.info.run_id for run in arms(client, study)} == {old, new}


def test_nothing_is_sent_unless_the_address_is_a_server(study, monkeypatch):
    for address in ("", "sqlite:///x.db", "postgresql://db/mlflow"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with live.live_log(study, study.runs[0]) as on_epoch:
            assert on_epoch is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with live.live_log(None, study.runs[0]) as on_epoch:
        assert on_epoch is None, "a run without a study is not tracked"


class BadServer:
    """Accepts connections and treats all of them badly: `silent`, `error` (500), `nonsense`, `drip` or `refuses`."""

    def __init__(self, manner: str):
        self.manner = manner
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.connections: list[socket.socket] = []

    def __enter__(self):
        if self.manner != "refuses":
            self._socket.listen()
            threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._socket.close()

    def _accept(self):
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        try:
            while connection.recv(65536):
                if self.manner == "error":
                    connection.sendall(b"HTTP/1.1 500 broken\r\nContent-Length: 6\r\n\r\nbroken")
                elif self.manner == "nonsense":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>")
                elif self.manner == "drip":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                    while True:
                        connection.sendall(b" ")
                        time.sleep(0.5)
        except OSError:
            pass


@pytest.mark.parametrize("manner", ["refuses", "silent", "error", "nonsense", "drip"])
def test_a_bad_server_holds_no_training_up_and_is_one_line_without_secrets(study, monkeypatch, capfd, manner):
    monkeypatch.setattr(live, "LAST_WORDS_S", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    rows, said = history_of(study), ""
    with BadServer(manner) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:geheim@127.0.0.1:{server.port}/?token=abc")
        with live.live_log(study, study.runs[0]) as on_epoch:
            waits = []
            for epoch in range(1, len(rows) + 1):
                start = time.monotonic()
                on_epoch(rows[:epoch])
                waits.append(time.monotonic() - start)
            deadline = time.monotonic() + 30
            while not (said or (manner == "drip" and server.connections)) and time.monotonic() < deadline:
                time.sleep(0.1)
                said += capfd.readouterr().err
            start = time.monotonic()
        closing = time.monotonic() - start
    assert max(waits) < 1, "starting a process is all there is to wait for"
    assert closing < 5
    said += capfd.readouterr().err
    assert said.count("\n") == (0 if manner == "drip" else 1), "a server that drips answers keeps the sender waiting"
    assert manner == "drip" or f"live curves are late, training goes on: http://127.0.0.1:{server.port}/" in said
    for secret in ("geheim", "abc", "me:"):
        assert secret not in said


def test_the_sender_of_a_killed_training_ends_too(study, monkeypatch):
    with BadServer("silent") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
        code = """
import time
from pathlib import Path
from noah.config import load_study
from noah.tracking import live
study = load_study("tiny", config_dir=Path("config"))
log = live.LiveLog(study, study.runs[0])
log.add([{"epoch": 1, "step": 1, "time": time.time(), "lr": 0.1}])
print(log._sender.pid, flush=True)
time.sleep(600)
"""
        training = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        sender = int(training.stdout.readline())
        training.send_signal(signal.SIGKILL)
        training.wait()
        deadline = time.monotonic() + 15
        while alive(sender) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not alive(sender)


def alive(pid: int) -> bool:
    """Whether that process runs; a zombie, which waits for its parent to look, does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_full_disk_costs_the_curve_and_not_the_training(study, monkeypatch, capfd):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setattr(os, "pwrite", full)
    with live.live_log(study, study.runs[0]) as on_epoch:
        on_epoch(history_of(study))
    assert capfd.readouterr().err == "noah: no live curves of this epoch: No space left on device\n"


def test_a_history_line_gives_the_same_points_as_numbers_and_as_text(study):
    fake_results(study)
    with open(study.results / "runs" / study.runs[0].key / "history.csv", newline="") as file:
        for row in csv.DictReader(file):
            numbers = json.loads(json.dumps({name: float(text) if text else None for name, text in row.items()}))
            assert epoch_points(numbers) == epoch_points(row)
