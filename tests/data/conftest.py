"""A dataset of a few dozen scenes from the real digits, and its shards."""

from pathlib import Path

import pytest
from digits_builder import build, changed

from noah.config import Dataset, Recipe, Run, load_dataset
from noah.data.sources import digits_scenes

CONFIG = Path(__file__).parents[2] / "config"
SPLITS = {
    "train": {"num_shards": 5, "samples": 61, "source_images": 40},
    "minival": {"num_shards": 1, "samples": 10, "source_images": 20},
    "test": {"num_shards": 2, "samples": 23, "source_images": 20},
}


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """The raw digits: read, never written."""
    root = tmp_path_factory.mktemp("raw")
    digits_scenes.fetch(changed(load_dataset("digits", CONFIG), root=str(root)))
    return root


@pytest.fixture
def tiny(raw) -> Dataset:
    fields = {"name": "tiny", "root": str(raw), "splits": SPLITS, "shards_per_job": 2}
    scenes = {"canvas": 16, "digit_px": [8, 12], "clutter": 2, "clutter_px": 3, "clutter_strength": 0.5}
    return changed(load_dataset("digits", CONFIG), **fields, scenes=scenes, image_size=16)


@pytest.fixture
def train_folder(tiny, tmp_path) -> Path:
    return build(tiny, "train", tmp_path / "train")


@pytest.fixture
def run(tiny) -> Run:
    recipe = Recipe(epochs=2, batch=8, lr=0.1, crop="pad", pad_px=2, flip=True, color_jitter=0.4)
    backbone, head = {"name": "mobilenetv2", "width": 0.35}, {"name": "gap"}
    return Run(dataset=tiny, recipe_name="tiny", recipe=recipe, backbone=backbone, arm="gap", head=head, seed=3)
