"""Shards of the tiny dataset and of a multi-label one like it, made once, and runs on them."""

import shutil
from pathlib import Path

import pytest
from small_runs import BACKBONES, NOAH, SMALL
from tests_support import REPOSITORY, add_tiny_study

from noah.config import Dataset, Run, load_dataset, load_recipe, load_study
from noah.data.shards import index_split, write_job, write_manifest


def multi_label(tiny: Dataset) -> Dataset:
    """Dataset tiny with one to three digits in a scene."""
    scenes = {**tiny.scenes.model_dump(), "digits": (1, 3)}
    fields = {"name": "tiny-multi", "multi_label": True, "scenes": scenes}
    return Dataset.model_validate({**tiny.model_dump(exclude_none=True), **fields})


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copytree(REPOSITORY / "config", folder / "config")
    add_tiny_study(folder / "config")
    tiny = load_dataset("tiny", folder / "config")
    tiny = tiny.model_copy(update={"root": str(REPOSITORY / tiny.root)})
    for dataset in (tiny, multi_label(tiny)):
        for split in dataset.splits:
            out = folder / "shards" / dataset.name / split
            index_split(dataset, split, out)
            for job in range(dataset.num_jobs(split)):
                write_job(dataset, split, job, out)
            write_manifest(dataset, split, out)
    return folder / "shards"


@pytest.fixture
def make_multi_label_run(make_run):
    """make_multi_label_run(lr=…): a run on dataset tiny-multi."""

    def make(**recipe) -> Run:
        run = make_run()
        fields = {"dataset": multi_label(run.dataset), "recipe": {**run.recipe.model_dump(), **recipe}}
        return Run.model_validate({**run.model_dump(), **fields})

    return make


@pytest.fixture
def make_run(project):
    """make_run(arm="noah", lr=…, …): a run of the tiny study with some recipe fields replaced."""

    def make(arm: str = "noah", seed: int = 0, **recipe) -> Run:
        run = next(run for run in load_study("tiny").runs if run.arm == arm and run.seed == seed)
        return Run.model_validate({**run.model_dump(), "recipe": {**run.recipe.model_dump(), **recipe}})

    return make


@pytest.fixture
def make_small(make_run):
    """make_small(recipe, family, field=…): a run of a few images of 32 pixels, otherwise as the recipe has it."""

    def make(name: str, family: str, **fields) -> Run:
        recipe = load_recipe(name, REPOSITORY / "config")
        if recipe.first_size:
            fields["first_size"] = 16
        fields["compile"] = False  # tests/engine/test_compiled.py has that
        if family == "cnn":
            fields["proj_drop_rate"] = 0.0  # CNNs have no such layers, and say so
        parts = {"recipe_name": name, "recipe": {**recipe.model_dump(), **SMALL, **fields}}
        return Run.model_validate({**make_run().model_dump(), **parts, "backbone": BACKBONES[family], "head": NOAH})

    return make
