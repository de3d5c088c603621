"""The pipeline on a real Slurm: a quiet run from a clean clone, and the weather of two weeks on a cluster.

Each disturbed study ends with the files of the quiet one, bit for bit (clocks aside), and trains no finished run again.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
import slurm_cluster as module
from slurm_cluster import SlurmCluster, slurm_cluster, wait_for, why_not
from tests_support import REPOSITORY
from workflow_clone import Clone, make_clone, what_was_found

SNAKEMAKE = ("snakemake", "--profile", "slurm", "--slurm-init-seconds-before-status-checks", "2")
PATIENCE_S = 600
"""No study of this file may take longer: nothing hangs."""
RUNS = "results/tiny/runs/tiny/{recipe}/gmlp_tiny-d1-p8-w0.5/{arm}/s0"
LONG_EPOCHS = 400
"""Of recipe `other`: about half a minute, to be disturbed in. Recipe `tiny` takes a second."""


def test_a_machine_with_a_slurm_of_its_own_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONFIG", tmp_path)
    (tmp_path / "plugstack.conf").write_text("include /etc/slurm/plugstack.conf.d/*.conf\n")
    foreign = tmp_path / "slurm.conf"
    foreign.write_text("ClusterName=theirs\n")
    with pytest.raises(RuntimeError, match=f"{foreign} is not ours"), slurm_cluster():
        pass
    assert foreign.read_text() == "ClusterName=theirs\n"


def test_no_slurm_is_started_unless_asked_for(monkeypatch):
    monkeypatch.delenv("NOAH_TEST_SLURM", raising=False)
    assert "NOAH_TEST_SLURM is not 1" in why_not()


def test_the_script_in_front_of_sacct_says_cancelled_in_one_word(tmp_path):
    real = tmp_path / "sacct"
    real.write_text('#!/bin/sh\necho "1|CANCELLED by 1000"; echo "2|$2"\n')
    real.chmod(0o755)
    ours = REPOSITORY / "workflow/profiles/slurm/bin"
    environment = {**os.environ, "PATH": f"{ours}:{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sacct", "-X", "two words"], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1|CANCELLED\n2|two words\n"
    real.write_text("#!/bin/sh\nexit 3\n")
    assert subprocess.run(["sacct"], env=environment).returncode == 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    if reason := why_not():
        pytest.skip(reason)
    with slurm_cluster() as cluster:
        yield cluster


class Study:
    """A clone whose Snakemake runs beside the test."""

    def __init__(self, clone: Clone):
        self.clone, self.folder = clone, clone.folder
        self.log = self.folder / "snakemake.log"
        self.process: subprocess.Popen | None = None

    def start(self, *arguments: str) -> None:
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*SNAKEMAKE, *arguments],
                cwd=self.folder,
                env=self.clone.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self) -> None:
        try:
            code = self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            pytest.fail(f"hangs: {self.log.read_text()[-5000:]}")
        assert code == 0, self.log.read_text()[-5000:]

    def wait_until_it_trains(self, recipe: str = "other", runs: int = 1) -> None:
        """Until so many runs of the recipe have done their first epoch."""

        def is_training() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-5000:]
            return sum("epoch 1 " in log for log in self.train_logs(recipe)) >= runs

        wait_for(f"training of {recipe}", is_training, PATIENCE_S)

    def train_logs(self, recipe: str) -> list[str]:
        logs = [path.read_text() for path in self.folder.glob("state/*/train.log")]
        return [log for log in logs if f"tiny/{recipe}/" in log]

    def provenance(self, recipe: str, arm: str) -> dict:
        return json.loads((self.folder / RUNS.format(recipe=recipe, arm=arm) / "provenance.json").read_text())


def times_trained(study: Study) -> dict[str, int]:
    """How often each run did its first epoch."""
    counts = {}
    for path in study.folder.glob("state/*/train.log"):
        lines = path.read_text().splitlines()
        key = next(line.split(": ")[0].split()[-1] for line in lines if ": from step 0 of" in line)
        counts[key] = sum(": from step 0 of" in line for line in lines)
    return counts


def times_finished(study: Study) -> list[int]:
    """How often each run did its second epoch, which is the last one of recipe `tiny`."""
    logs = [path.read_text() for path in study.folder.glob("state/*/train.log")]
    return [sum("epoch 2 step" in line for line in log.splitlines()) for log in logs]


@pytest.fixture(scope="module")
def quiet(cluster, tmp_path_factory) -> Study:
    clone = make_clone(tmp_path_factory.mktemp("quiet") / "noah")
    clone.edit_yaml("config/recipes/other.yaml", epochs=LONG_EPOCHS, eval_every_epochs=LONG_EPOCHS)
    clone.edit_yaml("config/studies/tiny.yaml", resources={"gpus": 1})
    study = Study(clone)
    study.start()
    study.finish()
    return study


@pytest.fixture
def study(cluster, quiet, tmp_path) -> Iterator[Study]:
    """The quiet clone with its shards and costs, and nothing trained."""
    shutil.copytree(quiet.folder, tmp_path / "noah", symlinks=True)
    study = Study(Clone(tmp_path / "noah"))
    for name in ("results/tiny/runs", "results/tiny/tables", "results/tiny/figures", "state", "logs"):
        shutil.rmtree(study.folder / name)
    for name in ("long.parquet", "fairness.json", "comparison.parquet", "tracked.json"):
        (study.folder / "results/tiny" / name).unlink()
    study.log.unlink()
    yield study
    if study.process and study.process.poll() is None:
        os.killpg(study.process.pid, signal.SIGKILL)
        study.process.wait()
    cluster.run("scancel", "--me")
    wait_for("an empty queue", lambda: not cluster.run("squeue", "-h"))


def check_same(study: Study, quiet: Study, *, killed: bool = False) -> None:
    """The same results, and nothing left to do; every run trained from its beginning once, unless jobs were killed."""
    expected, found = what_was_found(quiet.folder), what_was_found(study.folder)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    if not killed:  # before their first checkpoint, which runs of seconds have no other time for
        assert set(times_trained(study).values()) == {1}
        assert set(times_finished(study)) == {1}
    assert not list((study.folder / "results").rglob("*.tmp"))
    assert study.clone.planned() == {}


@pytest.mark.system
def test_a_quiet_run_from_a_clean_clone_ends_with_its_tables(cluster, quiet):
    assert (quiet.folder / "results/tiny/tables/comparison.md").exists()
    check_same(quiet, quiet)
    jobs = [job for job in cluster.accounted() if job["Comment"].startswith("rule_")]
    assert {job["State"] for job in jobs} == {"COMPLETED"}
    trained = [job for job in jobs if job["Comment"].startswith("rule_train")]
    assert len(trained) == 4
    assert all("gres/gpu=1" in job["AllocTRES"] for job in trained)
    assert {job["TimelimitRaw"] for job in trained} == {"15"}
    assert not list(quiet.folder.glob("state/*/checkpoint*"))


@pytest.mark.system
def test_a_cancelled_job_is_tried_again(cluster, quiet, study):
    study.start()
    study.wait_until_it_trains(runs=2)
    cluster.run("scancel", cluster.jobs(rule="train_wildcards_tiny_other")[0])
    study.finish()
    assert "CANCELLED" in study.log.read_text()
    check_same(study, quiet, killed=True)


@pytest.mark.system
def test_a_job_that_is_told_to_stop_is_tried_again_from_where_it_was(cluster, quiet, study):
    study.start()
    study.wait_until_it_trains(runs=2)
    cluster.run("scancel", "--signal=TERM", cluster.jobs(rule="train_wildcards_tiny_other")[0])
    study.finish()
    assert sorted(study.provenance("other", arm)["starts"] for arm in ("baseline", "noah")) == [1, 2]
    check_same(study, quiet)


@pytest.mark.system
def test_a_killed_snakemake_is_started_again_and_takes_its_jobs_over(cluster, quiet, study):
    study.start()
    study.wait_until_it_trains(runs=2)
    os.killpg(study.process.pid, signal.SIGKILL)
    study.process.wait()
    assert cluster.jobs(rule="train"), "the jobs outlive their Snakemake"
    study.clone.run(*SNAKEMAKE, "--unlock")
    study.start()
    study.finish()
    assert "jobs of an earlier Snakemake" in study.log.read_text()
    check_same(study, quiet, killed=True)


def disturb(study: Study, cluster: SlurmCluster, weather: Callable[[], None]) -> None:
    """The weather strikes while two runs train; those that are done by then are not touched again."""
    study.start()
    study.wait_until_it_trains(runs=2)
    scored = [path.with_name("provenance.json") for path in (study.folder / "results").rglob("metrics.json")]
    done = {path: path.read_bytes() for path in scored}
    weather()
    study.finish()
    assert {path: path.read_bytes() for path in done} == done


@pytest.mark.long
def test_a_job_that_hits_its_time_limit_again_and_again_gets_there(cluster, quiet, study):
    epochs = 6 * LONG_EPOCHS
    study.clone.edit_yaml("config/recipes/other.yaml", epochs=epochs, eval_every_epochs=epochs)
    # Slurm may send the signal a minute early: with less than two minutes it could come at every start.
    study.start("--set-resources", "train:runtime=2", "train:slurm_extra='--signal=TERM@20'")
    study.finish()
    assert set(times_trained(study).values()) == {1}
    assert study.provenance("other", "noah")["starts"] > 1
    assert study.clone.planned() == {}


@pytest.mark.long
def test_a_preempted_job_is_requeued_and_resumes(cluster, quiet, study):
    def preempt():
        cluster.run(
            "sbatch", "-p", "urgent", "-N", "2", "--exclusive", "-t", "1", "-o", "/dev/null", "--wrap", "sleep 10"
        )

    disturb(study, cluster, preempt)
    assert any(job["State"] == "PREEMPTED" for job in cluster.accounted())
    check_same(study, quiet, killed=True)


@pytest.mark.long
def test_a_node_that_goes_down_and_comes_back_costs_no_run(cluster, quiet, study):
    def lose_a_node():
        cluster.kill_node("n1")
        cluster.run("scontrol", "update", "nodename=n1", "state=down", "reason=test")
        time.sleep(5)
        cluster.start_node("n1")
        cluster.run("scontrol", "update", "nodename=n1", "state=resume", check=False)

    disturb(study, cluster, lose_a_node)
    assert any(job["State"] == "NODE_FAIL" for job in cluster.accounted())
    check_same(study, quiet, killed=True)


@pytest.mark.long
def test_a_controller_that_restarts_goes_unnoticed(cluster, quiet, study):
    def restart():
        cluster.stop_controller()
        time.sleep(10)
        cluster.start_controller()

    disturb(study, cluster, restart)
    check_same(study, quiet)


@pytest.mark.long
def test_everything_cancelled_and_started_afresh(cluster, quiet, study):
    study.start()
    study.wait_until_it_trains(runs=2)
    os.kill(study.process.pid, signal.SIGTERM)
    cluster.run("scancel", "--me")
    study.process.wait(timeout=PATIENCE_S)
    wait_for("an empty queue", lambda: not cluster.run("squeue", "-h"))
    study.clone.run(*SNAKEMAKE, "--unlock")
    study.start()
    study.finish()
    check_same(study, quiet, killed=True)


@pytest.mark.long
@pytest.mark.parametrize(("nodes", "gpus"), [(1, 2), (2, 0), (2, 2)])
def test_a_run_of_several_processes_trains_on_one_node_and_on_two(cluster, quiet, study, nodes, gpus):
    ranks = nodes * max(gpus, 1)
    study.clone.edit_yaml("config/studies/tiny.yaml", resources={"nodes": nodes, "gpus": gpus}, recipes=["other"])
    study.clone.edit_yaml("config/recipes/other.yaml", epochs=20, micro_batch=16 // ranks, eval_every_epochs=20)
    study.start()
    study.finish()
    assert study.provenance("other", "noah")["world_size"] == ranks
