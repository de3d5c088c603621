"""A reader never sees half a file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noah.files import read_json, read_parquet, write_atomic, write_json


def write_half_of(path):
    with write_atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("no room for the other half")


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_half_of(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "deep" / "x.json", {"a": [1, 2.5, None]})
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == read_json(tmp_path / "deep" / "x.json")


def test_a_missing_or_broken_json_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json: not JSON"):
        read_json(tmp_path / "bad.json")


def test_texts_in_parquet_that_are_no_texts_are_refused(tmp_path):
    offsets, data = pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\x80")
    keys = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    pq.write_table(pa.table({"key": keys}), tmp_path / "keys.parquet")
    with pytest.raises(pa.ArrowInvalid, match="UTF8"):
        read_parquet(tmp_path / "keys.parquet")
