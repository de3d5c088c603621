"""The repository, and a study small enough to run in seconds: what fixtures of several folders share."""

from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]

TINY_DATASET = {
    "splits": {
        "train": {"num_shards": 3, "samples": 48, "source_images": 200},
        "minival": {"num_shards": 1, "samples": 20, "source_images": 100},
        "test": {"num_shards": 2, "samples": 30, "source_images": 100},
    },
    "shards_per_job": 2,
}
TINY_STUDY = {
    "title": "A study of seconds",
    "datasets": ["tiny"],
    "recipes": ["tiny"],
    "backbones": [{"name": "gmlp_tiny", "width": 0.5, "depth": 1, "patch_size": 8}],
    "seeds": [0, 1],
    "arms": {"baseline": {"head": "baseline"}, "noah": {"head": "noah", "init": "small_m"}},
    "compare": [["baseline", "noah"]],
    "published": "imagenet",
    "small": {"seeds": [0]},
}
TINY_RECIPE = {"epochs": 2, "batch": 16, "optimizer": "adamw", "lr": 1e-3, "crop": "pad", "flip": False}


def add_tiny_study(config: Path) -> None:
    """Write the study, dataset and recipe called tiny into a config folder."""
    digits = yaml.safe_load((config / "datasets" / "digits.yaml").read_text())
    for path, data in {
        "datasets/tiny.yaml": {**digits, **TINY_DATASET, "name": "tiny"},
        "recipes/tiny.yaml": TINY_RECIPE,
        "studies/tiny.yaml": TINY_STUDY,
    }.items():
        (config / path).write_text(yaml.safe_dump(data, sort_keys=False))
