import io
import os
import tarfile
import zipfile

import pytest

from noah.data import containers, open_files
from noah.data.containers import Reader, list_entries
from noah.data.images import BadImage

FILES = {"a/1.jpg": b"one" * 700, "a/2.jpg": b"two", "b/1.jpg": b"", "b/deep/3.jpg": os.urandom(3000)}


def write_folder(root):
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def tar_bytes(files, kind=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_zip(path, files=FILES, method=zipfile.ZIP_DEFLATED, **options):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            with archive.open(name, "w", **options) as member:
                member.write(data)


def contents(root, relative):
    """Name -> content of everything that is listed."""
    reader = Reader(root)
    return {entry.name: reader.read(entry._asdict()) for entry in list_entries(root, relative)}


def test_a_folder_is_listed_in_sorted_order(tmp_path):
    write_folder(tmp_path / "images")
    assert [entry.name for entry in list_entries(tmp_path, "images")] == sorted(FILES)
    assert contents(tmp_path, "images") == FILES
    assert {entry.container for entry in list_entries(tmp_path, "images")} == {f"images/{name}" for name in FILES}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_read_where_it_lies_also_with_long_names(tmp_path, kind):
    files = {**FILES, f"{'long/' * 20}{'name' * 20}.jpg": b"long", "./dot.jpg": b"dot"}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files, kind))
    assert contents(tmp_path, "a.tar") == {name.removeprefix("./"): data for name, data in files.items()}


def test_tars_inside_a_tar_are_read_without_unpacking(tmp_path):
    inner = {f"n{i}.tar": tar_bytes({f"n{i}_{j}.JPEG": b"%d%d" % (i, j) * 600 for j in range(3)}) for i in range(2)}
    (tmp_path / "train.tar").write_bytes(tar_bytes({**inner, "readme.txt": b"hello"}))
    expected = {f"n{i}.tar/n{i}_{j}.JPEG": b"%d%d" % (i, j) * 600 for i in range(2) for j in range(3)}
    assert contents(tmp_path, "train.tar") == {**expected, "readme.txt": b"hello"}
    assert {entry.container for entry in list_entries(tmp_path, "train.tar")} == {"train.tar"}
    assert [path.name for path in tmp_path.iterdir()] == ["train.tar"]


def test_a_million_members_are_not_kept(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(tar_bytes({f"{i}.jpg": b"" for i in range(50)}))
    kept = []
    next_member = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda tar: kept.append(len(tar.members)) or next_member(tar))
    assert len(list(list_entries(tmp_path, "a.tar"))) == 50
    assert max(kept) <= 1


@pytest.mark.parametrize("nested", [False, True])
def test_a_tar_that_is_cut_short_is_named_wherever_it_ends(tmp_path, nested):
    data = tar_bytes(FILES)
    end = data.rstrip(b"\0").__len__()
    for cut in (*range(0, end, 512), end, 700, 5000):
        part = tar_bytes({"inner.tar": data[:cut]}) if nested else data[:cut]
        (tmp_path / "a.tar").write_bytes(part)
        with pytest.raises(ValueError, match=r"a\.tar.*(not a whole plain tar|cut short)") as error:
            list(list_entries(tmp_path, "a.tar"))
        assert "\n" not in str(error.value)
        assert not nested or "inner.tar" in str(error.value)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    data = bytearray(tar_bytes({f"{i}.jpg": b"x" for i in range(4)}, tarfile.USTAR_FORMAT))
    data[2 * 1024 + 150] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tar: has no end mark at byte 2048"):
        list(list_entries(tmp_path, "a.tar"))


def test_compressed_and_missing_containers_are_refused(tmp_path):
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    (tmp_path / "a.tar.gz").touch()
    for name, message in (
        ("packed.tar", "not a whole plain tar"),
        ("a.tar.gz", "got this file, expected a folder, a .tar or a .zip"),
        ("gone.tar", "no such file"),
        ("gone.zip", "no such file"),
        ("gone", "got nothing, expected a folder"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            list(list_entries(tmp_path, name))


def test_paths_links_and_devices_in_a_tar_reach_nothing(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("null", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(f"{name}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("../../up.jpg", "/absolute.jpg", ".hidden/x.jpg", "__MACOSX/._1.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"ok"))
    assert contents(tmp_path, "a.tar") == {"../../up.jpg": b"ok", "/absolute.jpg": b"ok"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("options", [{}, {"force_zip64": True}])
def test_a_zip_is_read_where_it_lies(tmp_path, method, options):
    write_zip(tmp_path / "a.zip", method=method, **options)
    assert contents(tmp_path, "a.zip") == FILES


def test_links_and_hidden_files_in_a_zip_are_left_out(tmp_path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("__MACOSX/._1.jpg", "x")
        archive.writestr("folder/", "")
        archive.writestr("1.jpg", "y")
    assert contents(tmp_path, "a.zip") == {"1.jpg": b"y"}


def test_zips_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, method=zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"a\.zip: member 'a/1\.jpg' is neither stored nor deflated, or encrypted"):
        list(list_entries(tmp_path, "a.zip"))
    write_zip(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flags of the first member in the directory
    path.write_bytes(data)
    with pytest.raises(ValueError, match="neither stored nor deflated, or encrypted"):
        list(list_entries(tmp_path, "a.zip"))
    path.write_bytes(data[:-30])
    with pytest.raises(ValueError, match=r"a\.zip: not a whole zip"):
        list(list_entries(tmp_path, "a.zip"))


def read_one(root, **changes):
    row = {"container": "a.zip", "key": "7", "name": "x", "deflated": True}
    return Reader(root).read({**row, **changes})


def test_a_deflate_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_BYTES", 1 << 20)
    write_zip(tmp_path / "a.zip", {"bomb.bmp": bytes(50 << 20), "ok.bmp": bytes(1 << 20)})
    bomb, fine = list_entries(tmp_path, "a.zip")
    with pytest.raises(BadImage, match=r"a\.zip: offset \d+, bomb\.bmp: does not inflate: it has more than 1,048,576"):
        Reader(tmp_path).read(bomb._asdict())
    assert Reader(tmp_path).read(fine._asdict()) == bytes(1 << 20)
    with pytest.raises(BadImage, match="has 1,048,577 bytes, expected at most 1,048,576"):
        read_one(tmp_path, offset=0, size=(1 << 20) + 1, deflated=False)


def test_bytes_that_end_early_or_do_not_inflate_are_a_bad_image(tmp_path):
    write_zip(tmp_path / "a.zip")
    entry = next(list_entries(tmp_path, "a.zip"))
    with pytest.raises(BadImage, match=r"a\.zip: offset \d+, key 7: does not inflate: it ends early"):
        read_one(tmp_path, offset=entry.offset, size=entry.size - 4)
    with pytest.raises(BadImage, match="does not inflate"):
        read_one(tmp_path, offset=entry.offset + 1, size=entry.size - 1)
    with pytest.raises(BadImage, match=r"got 10 bytes, expected 20: the file is cut short"):
        read_one(tmp_path, offset=(tmp_path / "a.zip").stat().st_size - 10, size=20)


def test_a_container_that_cannot_be_read_says_nothing_about_the_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_one(tmp_path, offset=0, size=1)


def test_links_in_a_folder_are_followed_and_loops_are_refused(tmp_path):
    write_folder(tmp_path / "elsewhere")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "images" / ".hidden.jpg").touch()
    expected = {"gone.jpg": b"", **{f"linked/{name}": data for name, data in FILES.items()}}
    assert contents(tmp_path, "images") == expected
    (tmp_path / "elsewhere" / "a" / "loop").symlink_to(tmp_path / "images")
    with pytest.raises(ValueError, match=r"loop: is a folder that .*images holds already"):
        list(list_entries(tmp_path, "images"))


def test_few_files_are_open_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(open_files, "OPEN_FILES", 2)
    write_folder(tmp_path / "images")
    reader, rows = Reader(tmp_path), [entry._asdict() for entry in list_entries(tmp_path, "images")] * 2
    for row in rows:
        assert reader.read(row) == FILES[row["name"]]
    assert len(reader._files) == 2
