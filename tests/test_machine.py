"""What results say of the code that made them."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

from tests_support import REPOSITORY

from noah import machine
from noah.machine import git_state


def git(*arguments: str, folder: Path) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", *author, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit_all(folder: Path) -> str:
    git("init", "-q", folder=folder)
    git("add", "-A", folder=folder)
    git("commit", "-q", "--allow-empty", "-m", "theirs", folder=folder)
    return git("rev-parse", "HEAD", folder=folder)


def loaded_from(path: Path):
    path.parent.mkdir(parents=True)
    shutil.copy(machine.__file__, path)
    spec = importlib.util.spec_from_file_location("installed", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_inside_another_repository_the_commit_is_that_of_noahs_code(tmp_path, monkeypatch):
    commit_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert git_state()[0] == git("rev-parse", "HEAD", folder=REPOSITORY)


def test_code_that_lies_in_somebody_elses_repository_and_is_not_tracked_has_no_commit(tmp_path):
    (tmp_path / ".gitignore").write_text(".venv\n")
    commit_all(tmp_path)
    assert loaded_from(tmp_path / ".venv/noah/machine.py").git_state() == ("unknown", False)


def test_a_tracked_file_that_differs_is_said_and_a_new_one_is_not(tmp_path):
    installed = loaded_from(tmp_path / "src/noah/machine.py")
    (tmp_path / "config.yaml").write_text("a: 1\n")
    commit = commit_all(tmp_path)
    (tmp_path / "results").write_text("new")
    assert installed.git_state() == (commit, False)
    (tmp_path / "config.yaml").write_text("a: 2\n")
    assert installed.git_state() == (commit, True)
