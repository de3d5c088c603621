"""Shards of the tiny dataset, made once, and runs on them."""

import shutil
from pathlib import Path

import pytest
from tests_support import REPOSITORY, add_tiny_study

from noah.config import Run, load_dataset, load_study
from noah.data.shards import index_split, write_job, write_manifest


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copytree(REPOSITORY / "config", folder / "config")
    add_tiny_study(folder / "config")
    dataset = load_dataset("tiny", folder / "config")
    dataset = dataset.model_copy(update={"root": str(REPOSITORY / dataset.root)})
    for split in dataset.splits:
        out = folder / "shards" / "tiny" / split
        index_split(dataset, split, out)
        for job in range(dataset.num_jobs(split)):
            write_job(dataset, split, job, out)
        write_manifest(dataset, split, out)
    return folder / "shards"


@pytest.fixture
def make_run(project):
    """make_run(arm="noah", lr=…, …): a run of the tiny study with some recipe fields replaced."""

    def make(arm: str = "noah", seed: int = 0, **recipe) -> Run:
        run = next(run for run in load_study("tiny").runs if run.arm == arm and run.seed == seed)
        return Run.model_validate({**run.model_dump(), "recipe": {**run.recipe.model_dump(), **recipe}})

    return make
