import io
import os
import subprocess
import tarfile

import pytest
import webdataset as wds
from photos import digit, encoded

from noah.data.tars import TarWriter, check_tar, members
from noah.files import sha256_file

SAMPLES = [(f"{i:08d}", label, "jpg", encoded(digit(i), quality=40 + i)) for i, label in enumerate([3, 0, 999, 41])]


def write(path, samples):
    with open(path, "wb") as file:
        tar = TarWriter(file)
        written = [tar.write(*sample) for sample in samples]
        sha256 = tar.close()
        assert tar.bytes == path.stat().st_size
    return written, sha256


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "a.tar"
    write(path, SAMPLES)
    return path


def test_gnu_tar_takes_it_without_a_word_and_unpacks_the_same_bytes(tar, tmp_path):
    done = subprocess.run(["tar", "xvf", tar, "-C", tmp_path], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == [f"{key}.{field}" for key, *_ in SAMPLES for field in ("cls", "jpg")]
    for key, label, field, data in SAMPLES:
        assert (tmp_path / f"{key}.{field}").read_bytes() == data
        assert (tmp_path / f"{key}.cls").read_text() == str(label)


def test_headers_say_the_same_of_every_member(tar):
    with tarfile.open(tar, "r:") as opened:
        told = {(i.mode, i.uid, i.gid, i.uname, i.gname, i.mtime, i.type, i.linkname) for i in opened}
    assert told == {(0o444, 0, 0, "noah", "noah", 0, tarfile.REGTYPE, "")}


def test_webdataset_reads_single_and_multi_label_samples(tar, tmp_path):
    samples = list(wds.WebDataset(str(tar), shardshuffle=False).decode().to_tuple("__key__", "cls"))
    assert samples == [(key, label) for key, label, *_ in SAMPLES]
    many = tmp_path / "many.tar"
    write(many, [("0", [0, 7], "webp", b"x"), ("1", [], "png", b"")])
    samples = list(wds.WebDataset(str(many), shardshuffle=False).decode("l", only="json").to_tuple("__key__", "json"))
    assert samples == [("0", {"labels": [0, 7]}), ("1", {"labels": []})]


def test_offsets_and_sha256_are_known_without_reading_back(tmp_path):
    path = tmp_path / "a.tar"
    written, sha256 = write(path, SAMPLES)
    assert sha256 == sha256_file(path)
    assert written == members(path)[1::2]
    content = path.read_bytes()
    for (*_, data), member in zip(SAMPLES, written, strict=True):
        assert content[member.offset : member.offset + member.size] == data


def test_equal_samples_give_equal_bytes_also_when_the_system_writes_little_at_a_time(tar, tmp_path, monkeypatch):
    again, slowly = tmp_path / "again.tar", tmp_path / "slowly.tar"
    write(again, SAMPLES)
    system_write = os.write
    monkeypatch.setattr(os, "writev", lambda file, parts: system_write(file, b"".join(parts)[:700]))
    monkeypatch.setattr(os, "write", lambda file, data: system_write(file, data[:100]))
    assert write(slowly, SAMPLES)[1] == sha256_file(tar)
    assert tar.read_bytes() == again.read_bytes() == slowly.read_bytes()


def test_an_empty_shard_is_a_tar(tmp_path):
    path = tmp_path / "empty.tar"
    write(path, [])
    check_tar(path, [])
    assert subprocess.run(["tar", "tf", path], check=True, capture_output=True).stdout == b""


def rows():
    offset, made = 0, []
    for key, label, _, data in SAMPLES:
        offset += 1536
        made.append({"key": key, "label": label, "offset": offset, "size": len(data)})
        offset += len(data) + -len(data) % 512
    return made


def test_a_right_tar_passes_the_check(tar):
    check_tar(tar, rows())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "offset of key 00000002, as the index has it: got 1"),
        ({"size": 1}, "size of key 00000002, as the index has it: got 1"),
        ({"label": 5}, "label of key 00000002: got '999', expected '5'"),
        ({"key": "00000009"}, "key: got '00000002'"),
    ],
)
def test_the_check_names_what_differs_from_the_index(tar, changes, message):
    expected = rows()
    expected[2] |= changes
    with pytest.raises(ValueError, match=f"a.tar: {message}"):
        check_tar(tar, expected)


def test_two_labels_are_no_sample(tmp_path):
    path = tmp_path / "b.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
        for name in ("00000000.cls", "00000000.json"):
            info = tarfile.TarInfo(name)
            info.size = 1
            made.addfile(info, io.BytesIO(b"3"))
    with pytest.raises(ValueError, match="second field of key 00000000: got 'json', expected an image"):
        check_tar(path, [{"key": "00000000", "label": 3, "offset": 1536, "size": 1}])
