"""DVC around the pipeline: repeat does nothing; a clone that pulled runs what a change concerns and nothing else."""

import json
import shutil

import pytest
from workflow_clone import Clone, make_clone

pytestmark = pytest.mark.system


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
    clone.run("dvc", "repro")
    clone.run("dvc", "push")
    commit(clone, "Reproduced")
    return clone


def test_repro_makes_the_tables(lab):
    assert (lab.folder / "results/tiny/tables/comparison.md").exists()
    assert len(finished_times(lab)) == 4


def test_results_and_shards_are_tracked_by_dvc_and_not_by_git(lab):
    files = lab.run("git", "ls-files").stdout.splitlines()
    assert "dvc.lock" in files
    assert not [name for name in files if name.startswith(("results/", "shards/", "data/", ".snakemake/metadata/"))]
    assert not [name for name in files if name.startswith("state/")]


def test_twice_in_a_row_does_nothing(lab):
    done = lab.run("dvc", "repro")
    assert "Stage 'reproduce' didn't change, skipping" in done.stdout
    assert "up to date" in lab.run("dvc", "status").stdout


def test_a_clone_that_pulled_runs_only_what_a_changed_parameter_concerns(lab, tmp_path):
    lab.run("git", "clone", "-q", str(lab.folder), str(tmp_path / "clone"))
    clone = Clone(tmp_path / "clone")
    clone.run("dvc", "pull")
    assert "didn't change, skipping" in clone.run("dvc", "repro").stdout
    assert clone.planned() == {}
    before = finished_times(clone)
    assert before == finished_times(lab)

    clone.edit_yaml("config/recipes/other.yaml", lr=0.002)
    downstream = {"collect", "tables", "figures", "track", "all"}
    assert clone.planned() == {"train": 2, "score": 2, "attention": 1, **dict.fromkeys(downstream, 1)}
    clone.run("dvc", "repro")
    after = finished_times(clone)
    assert {key for key in before if after[key] != before[key]} == {key for key in before if "/other/" in key}
    assert "didn't change, skipping" in clone.run("dvc", "repro").stdout


def test_a_fresh_clone_without_a_remote_trains_every_run(lab, tmp_path):
    lab.run("git", "clone", "-q", str(lab.folder), str(tmp_path / "clone"))
    clone = Clone(tmp_path / "clone")
    (clone.folder / "dvc.lock").unlink()
    shutil.copytree(lab.folder / "data", clone.folder / "data")
    assert clone.planned()["train"] == 4
