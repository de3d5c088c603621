import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noah.data import staging
from noah.data.reader import Shards
from noah.data.staging import stage_folder, staged

USE = """
import sys, time
from pathlib import Path
from noah.data.reader import Shards
from noah.data.staging import staged

with staged(Path(sys.argv[1]), Path(sys.argv[2])) as folder:
    shards = Shards(folder)
    print(folder, hash(b"".join(shards.read(i) for i in range(len(shards)))), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_margin(monkeypatch):
    monkeypatch.setattr(staging, "MARGIN_BYTES", 0)


@pytest.fixture
def node(tmp_path) -> Path:
    return tmp_path / "node"


def left(node: Path) -> list[str]:
    return sorted(path.name for path in node.rglob("*") if path.is_file())


def use(folder: Path, node: Path) -> subprocess.Popen:
    """A process that reads every image from the copy, says where it was, and stays until its input is closed."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, "-c", USE, str(folder), str(node)], **pipes)


def test_the_copy_reads_the_same_and_is_gone_afterwards(train_folder, node):
    with staged(train_folder, node) as folder:
        assert folder.is_relative_to(node)
        ours, source = Shards(folder), Shards(train_folder)
        assert ours.manifest_sha256 == source.manifest_sha256 == folder.name
        assert ours.clusters.equals(source.clusters)
        assert [ours.read(i) for i in range(len(ours))] == [source.read(i) for i in range(len(source))]
    assert left(node) == []


def test_processes_of_a_node_share_one_copy_which_the_last_one_removes(train_folder, node):
    users = [use(train_folder, node) for _ in range(3)]
    said = {user.stdout.readline() for user in users}
    assert len(said) == 1
    tars = [name for name in left(node) if name.endswith(".tar")]
    assert len(tars) == 5
    for number, user in enumerate(users):
        assert len([name for name in left(node) if name.endswith(".tar")]) == 5, number
        user.communicate()
        assert user.returncode == 0
    assert left(node) == []


def test_a_copy_whose_user_was_killed_is_removed_by_the_next_one(train_folder, node, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(train_folder, other)
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    user = use(other, node)
    user.stdout.readline()
    user.send_signal(signal.SIGKILL)
    user.communicate()
    assert "manifest.json" in left(node)
    with staged(train_folder, node) as folder:
        assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]
    assert left(node) == []


def test_half_a_copy_is_made_again(train_folder, node):
    with staged(train_folder, node) as folder:
        pass
    folder.mkdir()
    (folder / ".tiny-train-000000.tar.1.tmp").write_bytes(b"half")
    with staged(train_folder, node) as folder:
        assert ".tiny-train-000000.tar.1.tmp" not in left(node)
        assert len(Shards(folder)) == 61


def test_without_room_it_says_so_and_reads_from_the_source(train_folder, node, monkeypatch, capsys):
    monkeypatch.setattr(staging, "MARGIN_BYTES", 2**62)
    with staged(train_folder, node) as folder:
        assert folder == train_folder
    said = capsys.readouterr().err
    assert "not staged to" in said
    assert "read from where it is" in said
    assert said.count("\n") == 1
    assert left(node) == []


def test_a_disk_that_fills_up_while_copying_is_the_same_as_no_room(train_folder, node, monkeypatch, capsys):
    real = shutil.copyfile

    def copyfile(source, target):
        if source.name.endswith("000002.tar"):
            raise OSError(28, "No space left on device", str(target))
        return real(source, target)

    monkeypatch.setattr(staging.shutil, "copyfile", copyfile)
    with staged(train_folder, node) as folder:
        assert folder == train_folder
    assert "No space left on device; read from where it is" in capsys.readouterr().err
    assert left(node) == []


def test_an_altered_shard_is_refused(train_folder, node):
    tar = train_folder / "tiny-train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[-1] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ValueError, match=r"train/tiny-train-000001\.tar: sha256: got"), staged(train_folder, node):
        pass
    assert left(node) == []


def test_an_error_inside_leaves_nothing_behind(train_folder, node):
    with pytest.raises(KeyboardInterrupt), staged(train_folder, node):
        raise KeyboardInterrupt
    assert left(node) == []


def test_the_folder_may_be_named_by_environment_variables_that_have_to_be_set(monkeypatch):
    monkeypatch.setenv("SLURM_TMPDIR", "/scratch/17")
    assert stage_folder("$SLURM_TMPDIR/noah") == Path("/scratch/17/noah")
    monkeypatch.delenv("SLURM_TMPDIR")
    with pytest.raises(ValueError, match=r"--stage-to is '\$SLURM_TMPDIR/noah', expected its environment variables"):
        stage_folder("$SLURM_TMPDIR/noah")


def test_whoever_comes_while_the_last_user_leaves_gets_a_whole_copy(train_folder, node):
    deadline = time.monotonic() + 2
    users = []
    while time.monotonic() < deadline:
        with staged(train_folder, node) as folder:
            if not users:
                users.append(use(train_folder, node))
            assert len(Shards(folder)) == 61
    users[0].stdout.readline()
    users[0].communicate()
    assert left(node) == []
