import errno
import gzip
import hashlib
import os
import shutil

import pytest
from digits_builder import changed
from photos import folder_dataset

from noah.data import raw
from noah.data.raw import check_raw, decompress, raw_paths


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(name.encode())
    sums = {"a.tar": {"md5": hashlib.md5(b"a.tar").hexdigest(), "bytes": 5}}
    return folder_dataset(tmp_path, files={**sums, "b.tar": hashlib.sha256(b"b.tar").hexdigest()})


def test_right_files_are_hashed_once_and_again_after_a_change(dataset, tmp_path, monkeypatch):
    remembered, hashed = tmp_path / "state" / "raw.json", []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: hashed.append(kind) or digest(file, kind))
    for _ in range(2):
        check_raw(dataset, "a.tar", "b.tar", "train", remembered=remembered)
        assert hashed == ["md5", "sha256"]
    (tmp_path / "b.tar").write_bytes(b"B.tar")
    os.utime(tmp_path / "b.tar", ns=(1, 1))
    with pytest.raises(ValueError, match=r"b\.tar: sha256 is [0-9a-f]{64}, expected"):
        check_raw(dataset, "b.tar", remembered=remembered)


def test_everything_that_is_wrong_is_listed_at_once(dataset, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"half")
    (tmp_path / "b.tar").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"of dataset photos: a\.tar: has 4 bytes, expected 5: half down") as error:
        check_raw(dataset, "a.tar", "b.tar", "c.tar", remembered=tmp_path / "raw.json")
    assert "b.tar: sha256 is" in str(error.value)
    assert "c.tar: no such file" in str(error.value)


def test_a_missing_root_is_one_message(dataset, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"nowhere: no such folder, expected the raw data of dataset photos"):
        check_raw(changed(dataset, root=str(tmp_path / "nowhere")), "a.tar", "b.tar", remembered=tmp_path / "raw.json")
    monkeypatch.delenv("UNSET", raising=False)
    with pytest.raises(ValueError, match=r"root is '\$UNSET/x', expected its environment variables to be set"):
        check_raw(changed(dataset, root="$UNSET/x"), "a.tar")


def test_roles_are_those_of_the_source(dataset):
    assert raw_paths(dataset, "train", "images", optional=("devkit",)) == ("train", None)
    with pytest.raises(ValueError, match=r"splits\.train\.raw: missing key 'json'; source folder needs json"):
        raw_paths(dataset, "train", "json")
    with pytest.raises(ValueError, match=r"splits\.train\.raw: unknown key 'images'"):
        raw_paths(dataset, "train", optional=("devkit",))
    for path in ("/etc/passwd", "../x", "a/../../x"):
        splits = {**dataset.model_dump()["splits"], "test": {"num_shards": 1, "raw": {"images": path}}}
        with pytest.raises(ValueError, match=r"splits\.test\.raw\.images: got '.*', expected a path below root"):
            raw_paths(changed(dataset, splits=splits), "test", "images")


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(os.urandom(100_000)))
    return path


def test_a_gzip_is_decompressed_once_and_again_when_it_changed(packed):
    out = decompress(packed)
    assert (out.name, out.read_bytes()) == ("x.tar", gzip.decompress(packed.read_bytes()))
    before = out.stat().st_ino
    assert decompress(packed).stat().st_ino == before
    packed.write_bytes(gzip.compress(b"new"))
    os.utime(out, ns=(1, 1))
    assert decompress(packed).read_bytes() == b"new"


def test_a_broken_gzip_is_named_and_leaves_nothing(packed):
    whole = packed.read_bytes()
    damaged = bytearray(whole)
    damaged[500:600] = bytes(100)
    for data in (whole[:-1], whole[: len(whole) // 2], bytes(damaged), b"no gzip at all"):
        packed.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.tar\.gz: cannot be decompressed to x\.tar: "):
            decompress(packed)
        assert os.listdir(packed.parent) == ["x.tar.gz"]


def test_no_room_is_said_and_leaves_nothing(packed, monkeypatch):
    def full(source, target, size):
        target.write(source.read(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(raw.shutil, "copyfileobj", full)
    with pytest.raises(ValueError, match=r"cannot be decompressed to x\.tar: .*No space left on device"):
        decompress(packed)
    assert os.listdir(packed.parent) == ["x.tar.gz"]
    assert shutil.disk_usage(packed.parent).free > 0


def test_what_a_killed_attempt_left_is_swept_away(packed):
    (packed.parent / ".x.tar.123.tmp").write_bytes(b"half")
    decompress(packed)
    assert sorted(os.listdir(packed.parent)) == ["x.tar", "x.tar.gz"]
