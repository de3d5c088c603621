"""Every study of the repository is a DAG at both scales, before any of its data exists."""

import shutil

import pytest
from tests_support import REPOSITORY

STUDIES = sorted(path.stem for path in (REPOSITORY / "config/studies").glob("*.yaml"))


@pytest.mark.parametrize("scale", ["full", "small"])
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_dry_runs_without_data(clone, study, scale):
    shutil.rmtree(clone.folder / "data", ignore_errors=True)
    planned = clone.planned("--config", f"study={study}", f"scale={scale}")
    assert planned["train"] == planned["score"] >= 2
    assert planned["compare"] == planned["tables"] == planned["figures"] == planned["track"] == 1
    assert planned["index"] == planned["manifest"] >= 2
