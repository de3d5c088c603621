"""DVC around the pipeline: repeat does nothing; a clone that pulled runs what a change concerns and nothing else;
killed and repeated gives the same tables; a damaged file is named; secrets of a remote stay where they are."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from workflow_clone import Clone, make_clone, what_was_found

SECRET = "geheim-4711"


def finished_times(clone: Clone) -> dict[str, str]:
    """When each run was trained, by its key."""
    origins = [json.loads(path.read_text()) for path in clone.folder.glob("results/tiny/runs/**/provenance.json")]
    return {origin["run_key"]: origin["finished"] for origin in origins}


def commit(clone: Clone, message: str) -> None:
    clone.run("git", "add", "--all")
    clone.run("git", "-c", "user.name=noah", "-c", "user.email=noah@localhost", "commit", "-q", "-m", message)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Clone:
    """A lab's repository: reproduced once, pushed to a remote, its lock committed."""
    folder = tmp_path_factory.mktemp("lab")
    clone = make_clone(folder / "noah")
    clone.run("git", "init", "-q")
    clone.run("dvc", "remote", "add", "--default", "lab", str(folder / "remote"))
    clone.run(
        "dvc", "remote", "add", "--local", "elsewhere", f"https://me:{SECRET}@dvc.example.org/noah?token={SECRET}"
    )
    clone.run("dvc", "repro")
    clone.run("dvc", "push")
    commit(clone, "Reproduced")
    return clone


@pytest.mark.system
def test_repro_makes_the_tables(lab):
    assert (lab.folder / "results/tiny/tables/comparison.md").exists()
    assert len(finished_times(lab)) == 4


@pytest.mark.system
def test_results_and_shards_are_tracked_by_dvc_and_not_by_git(lab):
    files = lab.run("git", "ls-files").stdout.splitlines()
    assert "dvc.lock" in files
    assert not [name for name in files if name.startswith(("results/", "shards/", "data/", ".snakemake/metadata/"))]
    assert not [name for name in files if name.startswith("state/")]


@pytest.mark.system
def test_twice_in_a_row_does_nothing(lab):
    done = lab.run("dvc", "repro")
    assert "Stage 'reproduce' didn't change, skipping" in done.stdout
    assert "up to date" in lab.run("dvc", "status").stdout


@pytest.mark.system
def test_a_clone_that_pulled_runs_only_what_a_changed_parameter_concerns(lab, tmp_path):
    lab.run("git", "clone", "-q", str(lab.folder), str(tmp_path / "clone"))
    clone = Clone(tmp_path / "clone")
    clone.run("dvc", "pull")
    assert "didn't change, skipping" in clone.run("dvc", "repro").stdout
    assert clone.planned() == {}
    before = finished_times(clone)
    assert before == finished_times(lab)

    clone.edit_yaml("config/recipes/other.yaml", lr=0.002)
    downstream = {"collect", "compare", "tables", "figures", "track", "all"}
    assert clone.planned() == {"train": 2, "score": 2, "attention": 1, **dict.fromkeys(downstream, 1)}
    clone.run("dvc", "repro")
    after = finished_times(clone)
    assert {key for key in before if after[key] != before[key]} == {key for key in before if "/other/" in key}
    assert "didn't change, skipping" in clone.run("dvc", "repro").stdout


@pytest.mark.system
def test_a_fresh_clone_without_a_remote_trains_every_run(lab, tmp_path):
    lab.run("git", "clone", "-q", str(lab.folder), str(tmp_path / "clone"))
    clone = Clone(tmp_path / "clone")
    (clone.folder / "dvc.lock").unlink()
    shutil.copytree(lab.folder / "data", clone.folder / "data")
    assert clone.planned()["train"] == 4


@pytest.mark.system
def test_no_secret_of_a_remote_is_written_anywhere_but_in_its_ignored_config(lab):
    holders = [path for path in lab.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holders == [lab.folder / ".dvc/config.local"]
    assert ".dvc/config.local" not in lab.run("git", "ls-files").stdout


@pytest.mark.system
def test_a_damaged_file_of_the_remote_is_named_and_never_pulled_by_one_that_verifies(lab, tmp_path):
    remote = lab.folder.parent / "remote"
    assert "all as their names say" in lab.run("noah", "verify-cache", str(remote)).stdout
    damaged = tmp_path / "remote"
    shutil.copytree(remote, damaged)
    lock = json.loads(lab.run("dvc", "ls", ".", "results/tiny/tables", "--json", "--show-hash").stdout)
    md5 = next(entry["md5"] for entry in lock if entry["path"] == "comparison.md")
    path = damaged / "files/md5" / md5[:2] / md5[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"|", b"!", 1))

    done = lab.run("noah", "verify-cache", str(damaged), check=False)
    assert done.returncode == 2
    assert done.stdout == f"{path}: damaged, of results/tiny/tables/comparison.md\n"

    lab.run("git", "clone", "-q", str(lab.folder), str(tmp_path / "clone"))
    clone = Clone(tmp_path / "clone")
    clone.run("dvc", "remote", "modify", "--local", "lab", "url", str(damaged))
    clone.run("dvc", "remote", "modify", "--local", "lab", "verify", "true")
    assert clone.run("dvc", "pull", check=False).returncode != 0
    assert not (clone.folder / "results/tiny/tables/comparison.md").exists()


def interrupt(clone: Clone, signum: int, after_s: float) -> bool:
    """Start `dvc repro` and send the signal to it and all it started, as Ctrl-C or the end of a machine do."""
    with open(clone.folder / "interrupted.log", "a") as log:
        repro = subprocess.Popen(
            ["dvc", "repro"], cwd=clone.folder, env=clone.environment, stdout=log, stderr=log, start_new_session=True
        )
        time.sleep(after_s)
        running = repro.poll() is None
        if running:
            os.killpg(repro.pid, signum)
        repro.wait(120)
    return running


def is_locked(clone: Clone) -> bool:
    return any((clone.folder / ".snakemake/locks").glob("*"))


def repeat(clone: Clone) -> None:
    """`dvc repro`; where Snakemake finds the lock of one that was killed, it says what to do, and that is done."""
    if is_locked(clone):
        done = clone.run("dvc", "repro", check=False)
        assert done.returncode != 0
        assert "--unlock" in done.stdout + done.stderr
        clone.run("snakemake", "--unlock")
    clone.run("dvc", "repro")


def check_interrupted(lab: Clone, clone: Clone, signals: list[int], longest_s: float) -> None:
    """Each signal meets a `dvc repro` at work; one that was done before it gave the same, and starts anew."""
    drawn = random.Random(0)
    for signum in signals:
        if is_locked(clone):
            clone.run("snakemake", "--unlock")
        while not interrupt(clone, signum, drawn.uniform(2, longest_s)):
            check_repeated(lab, clone)
            for name in ("results", "shards", "state"):
                shutil.rmtree(clone.folder / name)
    check_repeated(lab, clone)
    print(f"interrupted {len(signals)} times")


def check_repeated(lab: Clone, clone: Clone) -> None:
    repeat(clone)
    assert what_was_found(clone.folder) == what_was_found(lab.folder)
    assert "didn't change, skipping" in clone.run("dvc", "repro").stdout


@pytest.fixture
def again(tmp_path) -> Clone:
    """A clone that has not computed anything."""
    clone = make_clone(tmp_path / "again")
    clone.run("git", "init", "-q")
    return clone


@pytest.mark.system
def test_interrupted_and_killed_and_repeated_gives_the_same_tables(lab, again):
    check_interrupted(lab, again, [signal.SIGINT, signal.SIGKILL], longest_s=25)


@pytest.mark.long
def test_interrupted_and_killed_at_many_points_and_repeated_gives_the_same_tables(lab, again):
    check_interrupted(lab, again, [signal.SIGINT, signal.SIGKILL] * 10, longest_s=25)
