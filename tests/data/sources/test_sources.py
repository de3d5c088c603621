"""What all sources have in common, and the page about the user's own images."""

import inspect
import re
import subprocess
from typing import get_args

import pytest
from replica_images import digit, tar_bytes, write_files
from tests_support import REPOSITORY

from noah.config import load_dataset
from noah.config.dataset import Source
from noah.data.sources import SOURCES

PAGE = (REPOSITORY / "docs" / "datasets" / "your-own.md").read_text(encoding="utf-8")


def test_every_source_of_the_config_is_a_module_with_three_functions():
    assert set(SOURCES) == set(get_args(Source))
    for name, module in SOURCES.items():
        assert module.__name__ == f"noah.data.sources.{name}"
        for function, parameters in (("fetch", 1), ("index", 2), ("open_source", 2)):
            assert len(inspect.signature(getattr(module, function)).parameters) == parameters


@pytest.fixture
def examples(tmp_path, monkeypatch) -> dict[str, str]:
    """The page's YAMLs by name, written where they belong, and raw data for them."""
    texts = re.findall(r"```yaml\n(name: (?:\S+)\n.*?)```", PAGE, re.DOTALL)
    found = {text.split()[1]: text for text in texts}
    classes = ("cat", "dog", "guinea pig")
    images = {f"{split}/{c}/{i}.jpg": digit(i) for split in ("train", "val") for c in classes for i in range(3)}
    (table,) = re.findall(r"```\n(path,label.*?)```", PAGE, re.DOTALL)
    images["images.csv"] = (table + "train/guinea pig/0.jpg,guinea pig,train\n").encode()
    monkeypatch.setenv("MY_IMAGES", str(write_files(tmp_path / "images", images)))
    tars = {f"train-{n:04d}.tar": tar_bytes(tar_samples(range(10 * n, 10 * n + 10))) for n in range(100)}
    tars |= {f"val-{n}.tar": tar_bytes(tar_samples([n])) for n in range(5)}
    monkeypatch.setenv("MY_TARS", str(write_files(tmp_path / "tars", tars)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "datasets").mkdir(parents=True)
    for name, text in found.items():
        (tmp_path / "config" / "datasets" / f"{name}.yaml").write_text(text)
    return found


def tar_samples(labels) -> dict[str, bytes]:
    members = {f"{label:04d}.jpg": digit(label % 10) for label in labels}
    return dict(sorted({**members, **{f"{label:04d}.cls": str(label).encode() for label in labels}}.items()))


def test_the_examples_of_the_page_index_such_data(examples):
    (command,) = re.findall(r"^ls .*$", PAGE, re.MULTILINE)
    subprocess.run(["bash", "-c", command], check=True)
    rows = {}
    for name in examples:
        dataset = load_dataset(name)
        source = SOURCES[dataset.source]
        assert source.fetch(dataset)
        rows[name] = tuple(source.index(dataset, split).num_rows for split in dataset.splits)
    assert rows == {"my-images": (9, 9), "my-table": (3, 1), "my-tars": (1000, 5)}


def test_links_of_the_pages_about_datasets_exist():
    for page in (REPOSITORY / "docs" / "datasets").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
