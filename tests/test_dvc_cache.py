"""A damaged file of DVC's cache is named, with the output it belongs to."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from noah.dvc_cache import damaged_files

CONTENT = {"metrics.json": b"{}", "tables/comparison.md": b"| 80.1 |"}


def put(store: Path, data: bytes, suffix: str = "") -> str:
    name = hashlib.md5(data).hexdigest() + suffix
    path = store / "files" / "md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """A cache with one folder `results` of two files, as DVC lays it out, and one file that nothing refers to."""
    monkeypatch.chdir(tmp_path)
    store = Path(".dvc/cache")
    entries = [{"md5": put(store, data), "relpath": name} for name, data in CONTENT.items()]
    folder = put(store, json.dumps(entries).encode(), ".dir")
    put(store, b"of another branch")
    outs = [{"path": "results", "md5": folder, "hash": "md5"}]
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"reproduce": {"outs": outs}}}))
    return store


def path_of(store: Path, data: bytes) -> Path:
    name = hashlib.md5(data).hexdigest()
    return store / "files" / "md5" / name[:2] / name[2:]


def noah(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "noah.cli", *arguments], capture_output=True, text=True)


def test_a_sound_store_is_counted(store):
    assert damaged_files(store) == ({}, 4)


@pytest.mark.parametrize("damage", [b"", b"| 80.2 |"], ids=["cut off", "altered"])
def test_a_damaged_file_is_named_with_its_output(store, damage):
    path = path_of(store, CONTENT["tables/comparison.md"])
    path.write_bytes(damage)
    assert damaged_files(store) == (
        {path.relative_to(store).as_posix(): ["results/tables/comparison.md"]},
        4,
    )
    done = noah("verify-cache")
    assert done.returncode == 2
    assert f"{path}: damaged, of results/tables/comparison.md" in done.stdout
    assert done.stderr == "error: .dvc/cache: 1 of 4 files are damaged, expected the MD5 of their names\n"


def test_a_damaged_list_of_a_folder_is_named_by_the_folder(store):
    [listing] = store.rglob("*.dir")
    listing.write_bytes(listing.read_bytes()[:-9])
    assert damaged_files(store)[0] == {listing.relative_to(store).as_posix(): ["results"]}


def test_what_is_no_store_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no DVC store"):
        damaged_files(tmp_path / "nowhere")
