"""data.dvc, the dataset's YAML and what `noah fetch` writes are three statements of one fact."""

import subprocess
import sys

import yaml
from tests_support import REPOSITORY

from noah.config import load_dataset
from noah.data.sources import SOURCES


def test_fetched_digits_are_what_data_dvc_tracks(tmp_path):
    before = (REPOSITORY / "data.dvc").read_bytes()
    dataset = load_dataset("digits", REPOSITORY / "config").model_copy(
        update={"root": str(tmp_path / "data" / "digits")}
    )
    SOURCES[dataset.source].fetch(dataset)
    assert (REPOSITORY / "data.dvc").read_bytes() == before

    def dvc(*arguments):
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    dvc("init", "--no-scm", "-q")
    dvc("add", "-q", "data")
    tracked = yaml.safe_load((REPOSITORY / "data.dvc").read_text())["outs"]
    assert yaml.safe_load((tmp_path / "data.dvc").read_text())["outs"] == tracked


def test_data_holds_the_embedded_digits_only():
    files = {p.relative_to(REPOSITORY / "data").as_posix() for p in (REPOSITORY / "data").rglob("*") if p.is_file()}
    assert files == {"digits/images.npy", "digits/labels.npy"}
