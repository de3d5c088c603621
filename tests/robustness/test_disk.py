"""Disks that fill up, folders that turn read-only: one clear line, old files as they were, and a retry that completes.

Here without any rights: the sync of a file fails, or the kernel refuses files above a size, or a folder is read-only.
`test_small_disk.py` does the same on a real small disk.
"""

import os
from functools import partial
from pathlib import Path

import pytest
from robustness.trouble import (
    SLOW,
    SMALL,
    STAGES,
    at_write,
    forget_that_it_is_done,
    leftovers,
    make_read_only,
    make_writable,
    no_file_larger_than,
    no_right_to_override,
    no_space,
    noah,
    written,
)

pytestmark = pytest.mark.filterwarnings("ignore")
FOLDERS = ("shards", "results", "state")
KEPT = ("shards", "results")


def quiet(stage: str, capsys) -> tuple[dict[str, bytes], int]:
    """What the stage leaves where nothing goes wrong, and how many files it syncs."""
    forget_that_it_is_done(stage)
    with at_write(0, no_space) as synced:
        code, said = noah(STAGES[stage], capsys)
    assert code == 0, said
    return written(*KEPT), synced[0]


def check_failure(code: int, said: str, expected: dict[str, bytes], reason: str) -> None:
    """One line that says why and where; every file is the old or the new one, which are the same."""
    assert code == 1, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: "), said
    assert "Traceback" not in said
    assert reason in last
    assert not last.startswith("error: input/output"), "the file is named"
    assert ".tmp" not in last, "by the name that the user knows"
    found = written(*KEPT)
    assert {path: found[path] for path in found if path in expected and ".parts/" not in path} == {
        path: expected[path] for path in found if path in expected and ".parts/" not in path
    }


def check_retry(stage: str, capsys, expected: dict[str, bytes]) -> None:
    code, said = noah(STAGES[stage], capsys)
    assert code == 0, said
    assert written(*KEPT) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_at_any_file_is_one_line_and_a_retry_completes(stage, box, capsys):
    expected, synced = quiet(stage, capsys)
    # Each file is synced, and then its folder.
    for number in sorted({1, synced // 2, synced - 1}) if stage in SLOW else range(1, synced + 1):
        forget_that_it_is_done(stage)
        with at_write(number, no_space):
            code, said = noah(STAGES[stage], capsys)
        check_failure(code, said, expected, "No space left on device")
        assert not leftovers()
    check_retry(stage, capsys, expected)


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_cannot_be_written_to_its_end_is_one_line_and_a_retry_completes(stage, box, capsys):
    expected, _ = quiet(stage, capsys)
    forget_that_it_is_done(stage)
    with no_file_larger_than(1000):
        code, said = noah(STAGES[stage], capsys)
    if stage in SMALL:
        assert code == 0
        return
    check_failure(code, said, expected, "File too large")
    assert not leftovers()
    check_retry(stage, capsys, expected)


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_folder_is_one_line_and_a_retry_completes(stage, box, capsys):
    expected, synced = quiet(stage, capsys)
    for number in (0, synced - 1):
        forget_that_it_is_done(stage)
        with no_right_to_override(), at_write(number, partial(make_read_only, *FOLDERS)):
            if number == 0:
                make_read_only(*FOLDERS)
            code, said = noah(STAGES[stage], capsys)
        make_writable(*FOLDERS)
        for lock in Path("state").glob("*/lock"):  # whose process would have ended
            lock.unlink()
        check_failure(code, said, expected, "Permission denied")
    check_retry(stage, capsys, expected)
    assert [path for path in Path("results").rglob("*") if os.access(path, os.W_OK) is False] == []
