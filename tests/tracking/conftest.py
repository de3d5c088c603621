"""A study whose results were never trained, in a working directory with an empty local store."""

import shutil

import pytest
from tracking_study import tiny_study

from noah.config import Study
from noah.tracking import init_local_store, tracking_uri


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A fresh database, made once: making one takes seconds."""
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'noah[workflow]'")
    root = tmp_path_factory.mktemp("store")
    init_local_store(root)
    return root / "mlruns" / "mlflow.db"


@pytest.fixture
def untrained(tmp_path, monkeypatch, empty_store) -> Study:
    """The tiny study, without results."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns")
    return tiny_study(tmp_path)


@pytest.fixture
def client(study):
    """Of the local store."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri())
