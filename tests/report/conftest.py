"""A finished two-backbone study on disk, made of known records instead of trained models."""

import shutil
from pathlib import Path

import pytest
import yaml
from finished_study import (
    CONFIG,
    Finished,
    write_config,
    write_everything,
    write_manifest,
    write_multi_label_run,
    write_run,
)
from shown import collected_and_compared

from noah.config import load_study
from noah.files import write_text


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """The working directory: config with study `two`, and no run yet."""
    write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> tuple[Path, dict]:
    """A folder with all runs and costs of study `two`, written once, and which images each run had right."""
    root = tmp_path_factory.mktemp("template")
    write_config(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        right = write_everything(load_study("two"))
    return root, right


@pytest.fixture
def finished(template, workdir) -> Finished:
    """All runs and costs of study `two`, not yet collected."""
    root, right = template
    for name in ("results", "shards"):
        shutil.copytree(root / name, workdir / name)
    return Finished(load_study("two"), dict(right))


@pytest.fixture
def mixed(workdir):
    """Study `two` with dataset `several` beside digits; every run is finished."""
    digits = yaml.safe_load((CONFIG / "datasets/digits.yaml").read_text())
    scenes = {**digits["scenes"], "digits": [1, 3]}
    several = {**digits, "name": "several", "multi_label": True, "scenes": scenes}
    write_text("config/datasets/several.yaml", yaml.safe_dump(several))
    path = workdir / "config/studies/two.yaml"
    write_text(path, path.read_text().replace("datasets: [digits]", "datasets: [digits, several]"))
    write_manifest()
    study = load_study("two")
    for run in study.runs:
        if run.dataset.multi_label:
            write_multi_label_run(study, run)
        else:
            write_run(study, run)
    collected_and_compared(study)
    return study
