"""The same on a small disk that fills up or turns read-only. Needs root, which mounts it (`make test-system`)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from robustness.test_disk import KEPT, check_failure, check_retry, leftovers, quiet
from robustness.trouble import STAGES, forget_that_it_is_done, noah

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root"),
    pytest.mark.filterwarnings("ignore:The image decoding"),
]
DISK_BYTES = 64 << 20
SHARES_FREE = (0.0, 0.2, 0.5, 0.8)
"""Of what the stage writes."""


@pytest.fixture
def disk(box):
    """shards, results and state on a disk of their own."""
    folder = box.outside.parent / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], check=True)
    for name in (*KEPT, "state"):
        shutil.move(name, folder / name)
        Path(name).symlink_to(folder / name)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, free_bytes: int) -> None:
    """A file takes the rest of the disk."""
    status = os.statvfs(folder)
    with open(folder / "other-people's-data", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - free_bytes))


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_at_any_place_is_one_line_and_a_retry_completes(stage, disk, capsys):
    before = os.statvfs(disk).f_bavail
    expected, _ = quiet(stage, capsys)
    largest = max(len(data) for data in expected.values())
    for share in SHARES_FREE:
        forget_that_it_is_done(stage)
        fill(disk, int(share * largest))
        code, said = noah(STAGES[stage], capsys)
        if code:  # a small stage may find room
            check_failure(code, said, expected, "No space left on device")
        assert code or share
        assert not leftovers()
        (disk / "other-people's-data").unlink()
    check_retry(stage, capsys, expected)
    assert before - os.statvfs(disk).f_bavail < before / 2, "nothing is left behind"


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_turns_read_only_is_one_line_and_a_retry_completes(stage, disk, capsys):
    expected, _ = quiet(stage, capsys)
    forget_that_it_is_done(stage)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        code, said = noah(STAGES[stage], capsys)
        check_failure(code, said, expected, "Read-only file system")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    check_retry(stage, capsys, expected)


def test_mlflow_on_a_full_disk_is_one_line_and_is_published_when_there_is_room(disk, capsys):
    (disk / "mlruns").mkdir()
    Path("mlruns").symlink_to(disk / "mlruns")
    assert noah("track --init", capsys)[0] == 0
    fill(disk, 0)
    code, said = noah("track tiny", capsys)
    assert "Traceback" not in said
    assert code == 1 or "not published" in said, said
    (disk / "other-people's-data").unlink()
    code, said = noah("track tiny", capsys)
    assert code == 0, said
    assert "not published" not in said
