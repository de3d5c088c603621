"""Many trainings at once on one real MLflow server that is killed and comes back; then every point stands once."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow_server import MlflowServer
from tests_support import REPOSITORY, TINY_RECIPE, add_tiny_study
from tracking_study import tiny_study

from noah.config import Study, load_dataset, load_study
from noah.data.shards import index_split, write_job, write_manifest
from noah.tracking import publish
from noah.tracking.records import read_records
from noah.tracking.runs import is_live, known_runs

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'noah[workflow]'")
TESTS = Path(__file__).parents[1]
EPOCH_S = 1.0
TIMED_NOAH = """
import atexit, time
from noah import cli
from noah.tracking import live

def timed(method):
    def call(*arguments):
        start = time.monotonic()
        method(*arguments)
        waits.append(time.monotonic() - start)
    return call

waits = [0.0]
live.LiveLog.add, live.LiveLog.close = timed(live.LiveLog.add), timed(live.LiveLog.close)
atexit.register(lambda: print("waits", max(waits[:-1]), waits[-1]))
cli.main()
"""
"""The command `noah`, which at its end prints how long it waited for live logging: in an epoch, and at the end. Not the
time between two epochs: many processes on few cores wait for each other."""
SECRET = "geheim-4711"
WAIT_FOR_S = 900


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    with MlflowServer(tmp_path / "server") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address.replace("://", f"://me:{SECRET}@"))
        yield server


def study_of(runs: int) -> Study:
    """A study called load with that many runs (an even number), in the working directory."""
    spec = yaml.safe_load(tiny_study(Path(".")).path.read_text())
    spec |= {"seeds": list(range(runs // 2)), "backbones": spec["backbones"][:1]}
    Path("config/studies/load.yaml").write_text(yaml.safe_dump(spec))
    return load_study("load", config_dir=Path("config"))


def real_study(epochs: int) -> Study:
    """The study of real data called tiny, with its shards, in the working directory."""
    add_tiny_study(Path("config"))
    Path("config/recipes/tiny.yaml").write_text(yaml.safe_dump({**TINY_RECIPE, "epochs": epochs}))
    Path("data").symlink_to(REPOSITORY / "data")
    dataset = load_dataset("tiny", Path("config"))
    for split in dataset.splits:
        out = Path("shards/tiny") / split
        index_split(dataset, split, out)
        for job in range(dataset.num_jobs(split)):
            write_job(dataset, split, job, out)
        write_manifest(dataset, split, out)
    return load_study("tiny", config_dir=Path("config"))


@pytest.fixture
def start():
    """start(*arguments): a Python process whose output can be read; it does not outlive the test."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def light_training(study: Study, key: str, die_after: int = 0) -> list[str]:
    return [str(TESTS / "live_training.py"), study.name, key, str(EPOCH_S), str(die_after)]


def real_training(study: Study, key: str) -> list[str]:
    out = str(study.results / "runs" / key)
    return ["-c", TIMED_NOAH, "train", key, "--study", study.name, "--out", out, "--device", "cpu"]


def points_in_files(study: Study) -> dict[str, list]:
    records, _ = read_records(study)
    return {
        record.key: sorted((point.metric, point.epoch, point.time_ms, point.value) for point in record.history)
        for record in records
        if record.kind == "arm"
    }


def points_on_server(study: Study) -> dict[str, list]:
    """Of every run that is not deleted; a key that has two runs of them fails."""
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    found = {}
    for key, runs in known_runs(client, client.get_experiment_by_name(study.slug).experiment_id, study.slug).items():
        arms = [run for run in runs if run.data.tags["noah.kind"] == "arm"]
        assert len(arms) == len(runs) == 1 or not arms
        for run in arms:
            assert (run.info.status, is_live(run)) == ("FINISHED", False)
            curves = [name for name in run.data.metrics if name in ("lr", "train_loss", "images_per_s")]
            curves += [name for name in run.data.metrics if name.startswith("minival_")]
            found[key] = sorted(
                (name, point.step, point.timestamp, point.value)
                for name in curves
                for point in client.get_metric_history(run.info.run_id, name)
            )
    return found


def published(study: Study) -> None:
    """`noah track`, again and again until a server under load has taken everything."""
    for _ in range(5):
        tracked = publish(study)
        if tracked["status"] == "ok":
            return
    pytest.fail(tracked["message"])


def curves_grow(study: Study, runs: int) -> None:
    """Wait until that many runs have points on the server, which may refuse while its connections are all in use."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    deadline = time.monotonic() + WAIT_FOR_S
    while time.monotonic() < deadline:
        with contextlib.suppress(MlflowException):
            experiment = client.get_experiment_by_name(study.slug)
            if experiment and len(known_runs(client, experiment.experiment_id, study.slug)) >= runs:
                return
        time.sleep(1)
    pytest.fail(f"no {runs} curves in time")


def disturb(server: MlflowServer, start, runs: int, real_runs: int, real_epochs: int) -> None:
    """Every fifth light training is killed once and resumes; the server is killed while all of them run."""
    study, real = study_of(runs), real_study(real_epochs)
    keys = [run.key for run in study.runs]
    dying = set(keys[::5])
    light = {key: start(*light_training(study, key, die_after=6 if key in dying else 0)) for key in keys}
    curves_grow(study, runs - len(dying))  # one may die before its first point is sent
    heavy = {run.key: start(*real_training(real, run.key)) for run in real.runs[:real_runs]}
    curves_grow(real, real_runs)
    server.kill()
    assert [training.poll() for training in heavy.values()] == [None] * real_runs, "they should be in the middle"
    for key in dying:
        assert light[key].wait(WAIT_FOR_S) == -signal.SIGKILL
        light[key] = start(*light_training(study, key))
    time.sleep(3 * EPOCH_S)
    server.start()
    time.sleep(5 * EPOCH_S)
    Path("finish").touch()

    waits = []
    for key, training in (light | heavy).items():
        output, _ = training.communicate(timeout=WAIT_FOR_S)
        assert training.returncode == 0, key
        waits.append([float(number) for number in output.split()[-2:]])
    longest_epoch_s, longest_end_s = map(max, zip(*waits, strict=True))
    assert longest_epoch_s < 5
    assert longest_end_s < 10, "it waits 5 s for what is on its way, and kills it; the rest is the load of this test"

    expected = {}
    for some, count in ((study, runs), (real, real_runs)):
        expected[some.slug] = points_in_files(some)
        assert len(expected[some.slug]) == count
        for _ in range(2):
            published(some)
            assert points_on_server(some) == expected[some.slug]
    holders = [path for path in Path(".").rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not holders, "neither our files nor the server's database hold the password of the address"
    points = sum(len(some) for of_study in expected.values() for some in of_study.values())
    print(f"{runs} + {real_runs} runs, {points} points; longest wait of an epoch {longest_epoch_s:.3f} s, ", end="")
    print(f"of the end {longest_end_s:.1f} s")


@pytest.mark.system
def test_six_trainings_outlive_their_server_and_every_point_stands_once(server, start):
    disturb(server, start, runs=6, real_runs=1, real_epochs=300)


@pytest.mark.long
def test_fifty_trainings_outlive_their_server_and_every_point_stands_once(server, start):
    disturb(server, start, runs=50, real_runs=2, real_epochs=1500)
