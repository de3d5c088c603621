"""A finished two-backbone study on disk, made of known records instead of trained models."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tests_support import TINY_RECIPE

from noah.config import Run, Study, load_study
from noah.engine.predict import write_multi_label_predictions
from noah.evaluate.metrics import score
from noah.files import read_json, write_json, write_text
from noah.report.collect import collect

CONFIG = Path(__file__).parents[2] / "config"
IMAGES = 400
CLASSES = 10
MANIFEST = Path("shards/digits/test/manifest.json")
STUDY = """
title: Two backbones & <one> table
datasets: [digits]
recipes: [short]
backbones:
  - {name: deit_tiny, width: 0.5, depth: 6}
  - {name: mobilenetv2, width: 0.35}
seeds: [0, 1, 2]
arms:
  baseline: {head: baseline}
  patch-gap: {head: gap, families: [vit]}
  noah: {head: noah, init: small_m, drop_rate: 0.1, recipe: {lr: 1.0e-3}}
compare: [[baseline, noah], [patch-gap, noah]]
published: imagenet
notes: [A note of the study's own.]
small: {seeds: [0]}
"""
SHARE = {"baseline": 0.6, "patch-gap": 0.65, "noah": 0.7}
"""Chance that an image is right, by arm."""
TARGETS = np.random.default_rng(0).random((IMAGES, CLASSES)) < 0.2
"""Of the multi-label runs."""


def write_records(study: Study, run: Run, *, shuffled: bool = False) -> np.ndarray:
    """predictions.parquet of a run; returns whether each image was right, bool (IMAGES,), in the order of keys."""
    rng = np.random.default_rng([run.seed, list(SHARE).index(run.arm), sum(run.backbone.slug.encode())])
    label = np.arange(IMAGES) % CLASSES
    right = rng.random(IMAGES) < SHARE[run.arm]
    top5 = (label[:, None] + np.where(right, 0, 3)[:, None] + np.arange(5)) % CLASSES
    records = pd.DataFrame(
        {
            "key": [f"{i:06d}" for i in range(IMAGES)],
            "label": label.astype(np.int32),
            "top5": list(top5.astype(np.int32)),
            "top5_prob": list(np.tile(np.array([0.5, 0.2, 0.1, 0.1, 0.05], np.float32), (IMAGES, 1))),
            "label_logprob": np.log(np.where(right, 0.5, 0.05)).astype(np.float32),
        }
    )
    folder = study.results / "runs" / run.key
    folder.mkdir(parents=True, exist_ok=True)
    records = records.sample(frac=1, random_state=run.seed) if shuffled else records
    records.to_parquet(folder / "predictions.parquet", index=False)
    return right


def write_run(study: Study, run: Run, manifest: Path) -> np.ndarray:
    """Everything that training and scoring leave behind, but the model."""
    folder = study.results / "runs" / run.key
    right = write_records(study, run, shuffled=run.arm == "noah")
    write_text(folder / "run.yaml", run.to_yaml())
    epochs = pd.DataFrame({"epoch": [1, 2, 3], "step": [10, 20, 30], "time": [1.0, 2.0, 3.0], "lr": 0.1})
    epochs["train_loss"] = [2.0, 1.5 + 0.01 * run.seed, 1.0]
    epochs["images_per_s"] = 100.0
    epochs["minival_loss"] = [2.1, None, 1.1]
    epochs["minival_top1"] = [30.0, None, 60.0 + run.seed + 5 * (run.arm == "noah")]
    epochs.to_csv(folder / "history.csv", index=False)
    token = run.head.name == "token"
    write_json(
        folder / "provenance.json",
        {
            "run_key": run.key,
            "run_sha256": run.hash,
            "commit": "c0ffee" * 6 + "beef",
            "dirty": False,
            "versions": {"python": "3.11.7", "torch": "2.14.1", "timm": "1.0.31", "noah": "0.1.0"},
            "device": "cpu",
            "threads": 2,
            "world_size": 1,
            "manifests": {"train": "a" * 64, "minival": "b" * 64, "test": "d" * 64},
            "evaluated_weights": "last",
            "epochs": 3,
            "started": f"2026-11-21T10:0{run.seed}:00+00:00",
            "finished": f"2026-11-21T10:1{run.seed}:00+00:00",
            "train_seconds": 600.0,
        },
    )
    write_json(
        folder / "arm.json",
        {
            "run_key": run.key,
            "head": {"name": run.head.name, **run.head.kwargs},
            "class_token": token,
            "positions": 16,
            "in_features": 96,
            "parameters": 410_000 + 160 * (run.head.name == "noah"),
            "head_parameters": 970 + 160 * (run.head.name == "noah"),
            "head_dropout": run.head.drop_rate,
            "init": run.head.init,
            "weight_decay_groups": {
                "decayed": {"tensors": 20, "parameters": 400_000},
                "not_decayed": {"tensors": 30 + token, "parameters": 10_000},
            },
            "moved_layers": [],
            "backbone_changes": run.backbone.changes,
            "recipe": run.recipe_name,
        },
    )
    score(folder, manifest)
    return right


def write_cost(study: Study, backbone: str, arms: list[str]) -> None:
    speeds = {"baseline": 1000.0, "patch-gap": 1010.0, "noah": 900.0}
    measured = {
        arm: {
            "parameters": 410_000 + 160 * (arm == "noah"),
            "head_parameters": 970,
            "macs": 15_000_000,
            "head_macs": 9_600,
            "latency_ms_p50": 2.0,
            "latency_ms_p95": 2.5,
            "images_per_s": speeds[arm],
            "train_images_per_s": 300.0,
            "peak_memory_mib": 120.5,
        }
        for arm in arms
    }
    conditions = {"device": "cpu", "dtype": "float32", "threads": 2, "torch": "2.14.1", "image_size": 32}
    conditions |= {"batch": 64, "rounds": 20, "channels_last": False}
    conditions["config_sha256"] = study.cost_hash("digits", backbone)
    path = study.results / "cost" / f"digits-{backbone}.json"
    write_json(path, {"dataset": "digits", "backbone": backbone, **conditions, "arms": measured})


@dataclass
class Finished:
    study: Study
    right: dict[tuple[str, str, int], np.ndarray]
    """(backbone slug, arm, seed) -> whether each image was right."""

    def folder(self, backbone: str, arm: str, seed: int) -> Path:
        return self.study.results / "runs" / "digits" / "short" / backbone / arm / f"s{seed}"


def _write_config(root: Path) -> None:
    shutil.copytree(CONFIG, root / "config")
    write_text(root / "config/studies/two.yaml", STUDY)
    write_text(root / "config/recipes/short.yaml", yaml.safe_dump({**TINY_RECIPE, "lr": 2.0e-3}))


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """The working directory: config with study `two`, and no run yet."""
    _write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> tuple[Path, dict]:
    """A folder with all runs and costs of study `two`, written once, and which images each run had right."""
    root = tmp_path_factory.mktemp("template")
    _write_config(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study = load_study("two")
        write_json(MANIFEST, {"samples": IMAGES, "classes": {str(c): IMAGES // CLASSES for c in range(CLASSES)}})
        right = {(run.backbone.slug, run.arm, run.seed): write_run(study, run, MANIFEST) for run in study.runs}
        for backbone in dict.fromkeys(run.backbone.slug for run in study.runs):
            write_cost(study, backbone, [run.arm for run in study.arms_of("digits", backbone)])
    return root, right


@pytest.fixture
def finished(template, workdir) -> Finished:
    """All runs and costs of study `two`, not yet collected."""
    root, right = template
    shutil.copytree(root / "results", workdir / "results")
    return Finished(load_study("two"), right)


def write_multi_label_run(study, run) -> None:
    """As `write_run`, but with multi-label records; NOAH's are better."""
    write_run(study, run, MANIFEST)
    folder = study.results / "runs" / run.key
    rng = np.random.default_rng([run.seed, run.head.name == "noah"])
    scores = rng.normal(size=TARGETS.shape) + (2 if run.head.name == "noah" else 1) * TARGETS
    keys = np.array([f"{i:08d}" for i in range(IMAGES)])
    logits = torch.from_numpy(scores.astype(np.float32))
    write_multi_label_predictions(folder / "predictions.parquet", keys, TARGETS.astype(np.uint8), logits, None)
    history = pd.read_csv(folder / "history.csv").rename(columns={"minival_top1": "minival_map"})
    history.to_csv(folder / "history.csv", index=False)
    provenance = read_json(folder / "provenance.json")
    share = {"train": 0.00125, "minival": 0.0, "test": 0.0}
    write_json(folder / "provenance.json", {**provenance, "quarantine_share": share})
    score(folder, MANIFEST)


@pytest.fixture
def mixed(workdir):
    """Study `two` with dataset `several` beside digits; every run is finished."""
    digits = yaml.safe_load((CONFIG / "datasets/digits.yaml").read_text())
    scenes = {**digits["scenes"], "digits": [1, 3]}
    several = {**digits, "name": "several", "multi_label": True, "scenes": scenes}
    write_text("config/datasets/several.yaml", yaml.safe_dump(several))
    path = workdir / "config/studies/two.yaml"
    write_text(path, path.read_text().replace("datasets: [digits]", "datasets: [digits, several]"))
    write_json(MANIFEST, {"samples": IMAGES, "classes": {str(c): IMAGES // CLASSES for c in range(CLASSES)}})
    study = load_study("two")
    for run in study.runs:
        if run.dataset.multi_label:
            write_multi_label_run(study, run)
        else:
            write_run(study, run, MANIFEST)
    collect(study)
    return study
