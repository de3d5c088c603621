"""timm's own model tests, out of its source distribution, over the names that this package adds to timm."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import timm

SELECT = """
import pytest
from noah.models.registry import default_cfgs


def pytest_collection_modifyitems(items):
    names = [item.callspec.params.get("model_name") if hasattr(item, "callspec") else None for item in items]
    items[:] = [item for item, name in zip(items, names) if name in default_cfgs]


def pytest_configure(config):
    for mark in "base cfg cfg_nonstd forward backward torchscript features fxforward fxbackward timeout".split():
        config.addinivalue_line("markers", mark)
"""
"""timm's tests are parametrized over what timm lists: of that, our names."""
TOKENS = ("noah_deit*", "noah_gmlp*", "noah_mixer*", "*pvt_tiny*")
"""Names whose features are tokens. timm keeps a list of its own, by which it knows what to ask of a model."""


@pytest.fixture(scope="module")
def timms_tests(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("timm")
    source = ["download", f"timm=={timm.__version__}", "--no-deps", "--no-binary", "timm", "--quiet", "--dest", folder]
    done = subprocess.run([sys.executable, "-m", "pip", *source], capture_output=True, text=True)
    archives = list(folder.glob("timm-*.tar.gz"))
    if not archives:
        pytest.skip(f"timm's source distribution is not to be had from PyPI here: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        text = archive.extractfile(f"timm-{timm.__version__}/tests/test_models.py").read().decode()
    known = "NUM_NON_STD = len(NON_STD_FILTERS)"
    assert known in text, "timm's tests have changed: look for the lists of models that have tokens, and maps"
    ours = f"NON_STD_FILTERS += {list(TOKENS)}\nFEAT_INTER_FILTERS += ['registry']\n"
    (folder / "test_models.py").write_text(text.replace(known, ours + known))
    (folder / "conftest.py").write_text(SELECT)
    return folder


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_models.py", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.system
@pytest.mark.parametrize("kind", ["default_cfgs", "forward_features", "forward_intermediates"])
def test_timms_tests_of_descriptions_and_maps_pass_for_every_name(timms_tests, kind):
    assert " passed" in run(timms_tests, "-k", f"test_model_{kind}")


@pytest.mark.long
def test_all_of_timms_model_tests_pass_for_every_name(timms_tests):
    assert " passed" in run(timms_tests)
