"""What tests of several folders need."""

import os
import shutil
from pathlib import Path

import pytest
from tests_support import REPOSITORY, add_tiny_study

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty folder with a copy of config/ and the tiny study, as the current directory; raw data is linked in."""
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    add_tiny_study(tmp_path / "config")
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path
