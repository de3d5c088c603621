import zipfile

import pytest
from annotated_builder import write_tar, write_zip

from noah.data.packed import read_packed, split_member


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("x.json", ("x.json", None)),
        ("folder/x.json", ("folder/x.json", None)),
        ("x.zip/a/x.json", ("x.zip", "a/x.json")),
        ("folder/x.json.tar.gz/x.json", ("folder/x.json.tar.gz", "x.json")),
        ("x.tar/x.json", ("x.tar", "x.json")),
        ("train.zip", ("train.zip", None)),
    ],
)
def test_a_path_is_parted_behind_its_archive(path, parts):
    assert split_member(path) == parts


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_member_is_read_whole_and_one_that_is_not_there_is_refused(tmp_path, name):
    write = write_zip if name == "x.zip" else write_tar
    write(tmp_path / name, {"a/b.json": b"content", "c.json": b"other"})
    assert read_packed(tmp_path, f"{name}/a/b.json") == b"content"
    with pytest.raises(ValueError, match=rf"{name}: no member 'b.json', found .*a/b.json"):
        read_packed(tmp_path, f"{name}/b.json")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_a_damaged_archive_is_one_line(tmp_path, name, content):
    write = write_zip if name == "x.zip" else write_tar
    write(tmp_path / name, {"a.json": bytes(range(256)) * 100})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=f"{name}: (not a whole archive|cannot be read)") as caught:
        read_packed(tmp_path, f"{name}/a.json")
    assert "\n" not in str(caught.value)


def test_a_member_whose_bytes_were_altered_is_refused(tmp_path):
    write_zip(tmp_path / "x.zip", {"a.json": b"0123456789" * 100}, zipfile.ZIP_STORED)
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"0123456789", b"1123456789", 1))
    with pytest.raises(ValueError, match=r"x.zip: not a whole archive: Bad CRC"):
        read_packed(tmp_path, "x.zip/a.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"x.json: cannot be read: No such file"):
        read_packed(tmp_path, "x.json")
