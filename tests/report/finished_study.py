"""Writes a finished two-backbone study to disk, made of known records instead of trained models."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from tests_support import TINY_RECIPE

from noah.config import Run, Study
from noah.engine.predict import write_multi_label_predictions
from noah.evaluate.metrics import score
from noah.files import read_json, write_json, write_text

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


def write_records(study: Study, run: Run, images: int = IMAGES, share: float | None = None) -> np.ndarray:
    """predictions.parquet of a run; returns whether each image was right, bool (images,), in the order of keys."""
    rng = np.random.default_rng([run.seed, *run.arm.encode(), *run.backbone.slug.encode()])
    label = np.arange(images) % CLASSES
    right = rng.random(images) < (SHARE.get(run.arm, 0.6) if share is None else share)
    top5 = (label[:, None] + np.where(right, 0, 3)[:, None] + np.arange(5)) % CLASSES
    records = pd.DataFrame(
        {
            "key": [f"{i:06d}" for i in range(images)],
            "label": label.astype(np.int32),
            "top5": list(top5.astype(np.int32)),
            "top5_prob": list(np.tile(np.array([0.5, 0.2, 0.1, 0.1, 0.05], np.float32), (images, 1))),
            "label_logprob": np.log(np.where(right, 0.5, 0.05)).astype(np.float32),
        }
    )
    folder = study.results / "runs" / run.key
    folder.mkdir(parents=True, exist_ok=True)
    records = records.sample(frac=1, random_state=run.seed) if run.arm == "noah" else records
    records.to_parquet(folder / "predictions.parquet", index=False)
    return right


def write_run(study: Study, run: Run, images: int = IMAGES, share: float | None = None) -> np.ndarray:
    """Everything that training and scoring leave behind, but the model; the records of noah are in another order.

    Args:
        study: The study.
        run: One of its runs.
        images: How many were predicted.
        share: Chance that an image is right; default: of SHARE.
    """
    folder = study.results / "runs" / run.key
    right = write_records(study, run, images, share)
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
            "evaluated_in": "fp32",
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
    score(folder, MANIFEST)
    return right


def write_manifest(images: int = IMAGES) -> None:
    classes = np.bincount(np.arange(images) % CLASSES, minlength=CLASSES)
    write_json(MANIFEST, {"samples": images, "classes": {str(c): int(n) for c, n in enumerate(classes)}})


def write_everything(study: Study, images: int = IMAGES) -> dict[tuple[str, str, int], np.ndarray]:
    """All runs and costs; as `Finished.right`."""
    write_manifest(images)
    for backbone in dict.fromkeys(run.backbone.slug for run in study.runs):
        write_cost(study, backbone, [run.arm for run in study.arms_of("digits", backbone)])
    return {(run.backbone.slug, run.arm, run.seed): write_run(study, run, images) for run in study.runs}


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
            "images_per_s": speeds.get(arm, 950.0),
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

    def values(self, backbone: str, arm: str, seeds: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
        """Percent, (S, IMAGES)."""
        return 100.0 * np.stack([self.right[backbone, arm, seed] for seed in seeds])

    def folder(self, backbone: str, arm: str, seed: int) -> Path:
        return self.study.results / "runs" / "digits" / "short" / backbone / arm / f"s{seed}"


def write_multi_label_run(study, run) -> None:
    """As `write_run`, but with multi-label records; NOAH's are better."""
    write_run(study, run)
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


def write_config(root: Path) -> None:
    shutil.copytree(CONFIG, root / "config")
    write_text(root / "config/studies/two.yaml", STUDY)
    write_text(root / "config/recipes/short.yaml", yaml.safe_dump({**TINY_RECIPE, "lr": 2.0e-3}))
