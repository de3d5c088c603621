"""A copy of the repository with the tiny study as its default, as a user's clone would be after `make setup`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml
from tests_support import REPOSITORY, add_tiny_study

TOP_LEVEL = (
    "Snakefile",
    "dvc.yaml",
    "data.dvc",
    ".dvcignore",
    ".gitignore",
    "environment.yml",
    "Makefile",
    "local",
    "slurm",
)
EXACT = (
    "model.safetensors",
    "predictions.parquet",
    "metrics.json",
    "run.yaml",
    "arm.json",
    "comparison.parquet",
)
CLOCKS = ["train_seconds", "latency_ms_p50", "latency_ms_p95", "images_per_s", "train_images_per_s", "peak_memory_mib"]
"""Metrics of long.parquet that say how fast this machine was."""


class Clone:
    """A project folder to run commands in."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def environment(self) -> dict[str, str]:
        """Of commands that run in the clone, with the clone's own sources."""
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "src"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        for name in ("MLFLOW_TRACKING_URI", "SNAKEMAKE_PROFILE"):
            environment.pop(name, None)
        return environment

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run one of the environment's programs in the clone."""
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=self.environment)
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.run("snakemake", "--cores", "2", *arguments)

    def planned(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule a dry run names; empty when there is nothing to do."""
        lines = self.snakemake("-n", "--quiet", "rules", *arguments).stdout.splitlines()
        if not any(line.startswith("total") for line in lines):
            return {}
        first = next(i for i, line in enumerate(lines) if line.startswith("-----")) + 1
        last = next(i for i, line in enumerate(lines) if line.startswith("total"))
        return {rule: int(count) for rule, count in (line.split() for line in lines[first:last])}

    def edit_yaml(self, path: str, **changes) -> None:
        file = self.folder / path
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}, sort_keys=False))

    def append(self, path: str, text: str) -> None:
        with open(self.folder / path, "a", encoding="utf-8") as file:
            file.write(text)


def make_clone(folder: Path) -> Clone:
    """Two recipes, two arms, one backbone, one seed: four runs of a second each."""
    folder.mkdir(parents=True)
    for name in ("config", "src", "workflow", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local", "*.egg-info")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    for name in TOP_LEVEL:
        shutil.copy2(REPOSITORY / name, folder / name, follow_symlinks=False)
    shutil.copytree(REPOSITORY / "data", folder / "data")
    add_tiny_study(folder / "config")
    shutil.copy(folder / "config/recipes/tiny.yaml", folder / "config/recipes/other.yaml")
    clone = Clone(folder)
    clone.edit_yaml("config/studies/tiny.yaml", recipes=["tiny", "other"], seeds=[0])
    clone.edit_yaml("config/config.yaml", study="tiny")
    return clone


def what_was_found(folder: Path) -> dict[str, bytes]:
    """All that runs and tables of the tiny study say, without clocks."""
    found = {}
    for path in sorted((folder / "results/tiny").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in EXACT:
            found[name] = path.read_bytes()
        if path.name == "history.csv":
            found[name] = pd.read_csv(path).drop(columns=["time", "images_per_s"]).to_csv().encode()
        if path.name == "long.parquet":
            long = pd.read_parquet(path)
            found[name] = long[~long.metric.isin(CLOCKS)].to_csv(index=False).encode()
        if path.parent.name == "tables":
            found[name] = b"there"
    return found
