"""What git holds, and what it must not."""

import subprocess

import pytest
from tests_support import REPOSITORY

COMPUTED = ("data/", "shards/", "results/", "state/", "mlruns/", "logs/", ".snakemake/")


def test_nothing_that_is_computed_is_in_git():
    done = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = done.stdout.splitlines()
    assert not [name for name in files if name.startswith(COMPUTED)]
    assert "dvc.lock" not in files


def test_the_top_level_is_what_the_readme_says():
    for name in ("Snakefile", "data.dvc", "dvc.yaml", "environment.yml", "requirements.lock", "README.md", "LICENSE"):
        assert (REPOSITORY / name).is_file()
    for name in ("workflow", "src", "config", "tests", "docs", "slurm", "local"):
        assert (REPOSITORY / name).is_dir()
