"""A project to damage, and how many damaged files were tried."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from robustness.box import Box
from robustness.world import make_world

TRIED: Counter[str] = Counter()
"""Inputs by what became of them."""


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """The project as it should be: copied, never changed."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_world(folder)
    return folder


@pytest.fixture
def box(world, tmp_path, monkeypatch) -> Box:
    """A copy to damage."""
    box = Box(tmp_path / "box")
    shutil.copytree(world, box.work, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(box.work)
    return box


@pytest.fixture
def tried() -> Counter[str]:
    return TRIED


def pytest_terminal_summary(terminalreporter):
    if TRIED:
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(TRIED.items()))
        terminalreporter.write_line(f"damaged inputs tried: {TRIED.total():,} ({counts})")
