"""A small study whose results were never trained: files as `noah train`, `noah score` and `noah cost` leave them."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import yaml
from tests_support import TINY_RECIPE

from noah.config import Run, Study, load_study
from noah.files import write_json, write_text

CONFIG = Path(__file__).parents[1] / "config"
STUDY = """
title: Tiny
datasets: [digits]
recipes: [short]
backbones: [{name: mobilenetv2, width: 0.35}, {name: deit_tiny, width: 0.5, depth: 6}]
seeds: [0, 1]
arms: {baseline: {head: baseline}, noah: {head: noah}}
compare: [[baseline, noah]]
"""
EPOCHS = 3


def tiny_study(root: Path) -> Study:
    """A study of 2 backbones x 2 arms x 2 seeds whose config lies below `root`; nothing is trained yet."""
    shutil.copytree(CONFIG, root / "config", dirs_exist_ok=True)
    write_text(root / "config" / "studies" / "tiny.yaml", STUDY)
    write_text(root / "config" / "recipes" / "short.yaml", yaml.safe_dump(TINY_RECIPE))
    return load_study("tiny", config_dir=root / "config")


def fake_results(study: Study, start: float = 1_700_000_000.0) -> None:
    """Every run, cost file, table and figure of `study`, below the working directory."""
    for number, run in enumerate(study.runs):
        fake_run(study, run, start + 1000 * number)
    for dataset, backbone in {(run.dataset.name, run.backbone.slug) for run in study.runs}:
        arms = {
            arm: {"macs": 1e6, "latency_ms_p50": 2.5, "images_per_s": 400.0, "kernel": "cpu"}
            for arm in ("baseline", "noah")
        }
        write_json(study.results / "cost" / f"{dataset}-{backbone}.json", {"device": "cpu", "arms": arms})
    write_text(study.results / "tables" / "digits.md", "| backbone | noah |\n|---|---|\n")
    write_text(study.results / "figures" / "curves.svg", '<svg xmlns="http://www.w3.org/2000/svg"/>')


def fake_run(study: Study, run: Run, start: float, top1: float = 80.0, history: list[dict] | None = None) -> Path:
    """One trained and scored run whose epochs end at `start` + 10, 20, … seconds; returns its folder."""
    folder = study.results / "runs" / run.key
    history = history or [fake_epoch(epoch, start) for epoch in range(1, EPOCHS + 1)]
    write_text(folder / "run.yaml", run.to_yaml())
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    write_json(folder / "arm.json", {"run_key": run.key, "parameters": 400_000, "head_parameters": 13_000})
    write_json(
        folder / "provenance.json",
        {
            "run_sha256": run.hash,
            "commit": "0123abcd",
            "dirty": False,
            "manifests": {"train": "f" * 64},
            "started": datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds"),
            "finished": datetime.fromtimestamp(history[-1]["time"] + 1, UTC).isoformat(timespec="seconds"),
        },
    )
    write_json(folder / "metrics.json", {"top1": top1, "top5": 99.0, "loss": 0.5, "per_class_top1": [top1] * 10})
    return folder


def fake_epoch(epoch: int, start: float) -> dict:
    minival = epoch == EPOCHS
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "time": start + 10 * epoch,
        "lr": 0.002 / epoch,
        "train_loss": 2.0 / epoch,
        "images_per_s": 900.5,
        "minival_loss": 1.0 / epoch if minival else None,
        "minival_top1": 60.0 + epoch if minival else None,
    }
