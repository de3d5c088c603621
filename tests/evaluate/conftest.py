"""A few test images, and folders of runs that look trained."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests_support import REPOSITORY, add_tiny_study

from noah.config import Run, load_dataset, load_study
from noah.data.shards import index_split, write_job, write_manifest
from noah.models import build_model


@pytest.fixture(scope="session")
def shards_root(tmp_path_factory) -> Path:
    """A shards folder with the test split of dataset tiny: 30 scenes."""
    folder = tmp_path_factory.mktemp("test-split")
    shutil.copytree(REPOSITORY / "config", folder / "config")
    add_tiny_study(folder / "config")
    dataset = load_dataset("tiny", folder / "config")
    dataset = dataset.model_copy(update={"root": str(REPOSITORY / dataset.root)})
    out = folder / "shards" / "tiny" / "test"
    index_split(dataset, "test", out)
    for job in range(dataset.num_jobs("test")):
        write_job(dataset, "test", job, out)
    write_manifest(dataset, "test", out)
    return folder / "shards"


@pytest.fixture
def trained(project) -> Callable[..., Path]:
    """trained("noah", backbone={…}, head={…}): run.yaml and fresh weights, where training would put them."""

    def make(arm: str = "noah", seed: int = 0, **fields) -> Path:
        run = next(run for run in load_study("tiny").runs if run.arm == arm and run.seed == seed)
        run = Run.model_validate({**run.model_dump(), **fields})
        folder = project / "results" / "tiny" / "runs" / run.key
        folder.mkdir(parents=True)
        (folder / "run.yaml").write_text(run.to_yaml())
        torch.manual_seed(seed)
        weights = {
            name: tensor.contiguous() for name, tensor in build_model(**run.model_arguments).state_dict().items()
        }
        if "head.fc.weight" in weights:  # the paper's MLP baselines start at zero, and every map would be flat
            torch.nn.init.normal_(weights["head.fc.weight"])
        save_file(weights, folder / "model.safetensors", {"run_sha256": run.hash})
        return folder

    return make
