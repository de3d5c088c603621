"""Folders of images as users have them, plain and as archives."""

import re
import unicodedata
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from digits_builder import build, changed
from replica_images import digit, tar_bytes, write_files

from noah.config import Dataset
from noah.data.reader import Shards
from noah.data.sources import folder
from noah.data.verify import verify

CLASSES = ("cat", "dog", "guinea pig")
FILES = {
    f"{name}/{place}{number}.jpg": digit(8 * place + number)
    for place, name in enumerate(CLASSES)
    for number in range(6)
}
FILES["dog/deeper/still/a.PNG"] = digit(40, format="PNG")
FILES["dog/b.bmp"] = digit(41, format="BMP")


def dataset_of(root: Path, images: str = "train", **fields) -> Dataset:
    splits = {name: {"num_shards": 2, "raw": {"images": images}} for name in ("train", "test")}
    plain = {"name": "mine", "source": "folder", "root": str(root), "classes": CLASSES, "splits": splits}
    return Dataset(**{**plain, "image_size": 24, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), **fields})


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def samples(table) -> list[tuple[str, int]]:
    return list(zip(table["name"].to_pylist(), table["label"].to_pylist(), strict=True))


@pytest.fixture
def root(tmp_path) -> Path:
    write_files(tmp_path / "raw" / "train", FILES)
    return tmp_path / "raw"


def test_a_folder_becomes_shards_with_its_images_and_classes(root, tmp_path):
    dataset = dataset_of(root)
    out = build(dataset, "train", tmp_path / "shards")
    assert verify(dataset, "train", out)["samples"] == len(FILES)
    shards, rows = Shards(out), samples(folder.index(dataset, "train"))
    assert {name: CLASSES[label] for name, label in rows} == {name: name.split("/")[0] for name in FILES}
    assert [label for _, label in rows] == shards.labels.tolist()
    for i, (name, _) in enumerate(rows):
        if not name.endswith(".bmp"):
            assert shards.read(i) == FILES[name]


def test_a_tar_a_zip_and_a_tar_of_class_tars_give_the_order_of_the_folder(root):
    (root / "all.tar").write_bytes(tar_bytes(FILES))
    write_zip(root / "stored.zip", FILES)
    write_zip(root / "deflated.zip", FILES, zipfile.ZIP_DEFLATED)
    expected = samples(folder.index(dataset_of(root), "train"))
    for archive in ("all.tar", "stored.zip", "deflated.zip"):
        assert samples(folder.index(dataset_of(root, archive), "train")) == expected
    cats = {name.removeprefix("cat/"): data for name, data in FILES.items() if name.startswith("cat/")}
    rest = {name: data for name, data in FILES.items() if not name.startswith("cat/")}
    (root / "nested.tar").write_bytes(tar_bytes({"cat.tar": tar_bytes(cats), **rest}))
    labels = sorted(label for _, label in samples(folder.index(dataset_of(root, "nested.tar"), "train")))
    assert labels == sorted(label for _, label in expected)


def test_a_folder_inside_an_archive_can_hold_the_classes(root):
    both = {f"pets/{split}/{name}": data for split in ("train", "val") for name, data in FILES.items()}
    write_zip(root / "pets.zip", both)
    dataset = dataset_of(root)
    splits = {"train": "pets/train", "test": "pets/val"}
    raw = {s: {"num_shards": 1, "raw": {"images": "pets.zip", "inside": at}} for s, at in splits.items()}
    inside = changed(dataset, splits=raw)
    for split in splits:
        assert samples(folder.index(inside, split)) == samples(folder.index(dataset, split))
    raw["test"]["raw"]["inside"] = "pets/test"
    with pytest.raises(ValueError, match=r"pets\.zip: no images in pets/test"):
        folder.index(changed(dataset, splits=raw), "test")


def test_what_is_no_image_is_left_out_and_counted(root, capsys):
    expected = samples(folder.index(dataset_of(root), "train"))
    assert capsys.readouterr().err == ""
    write_files(
        root / "train", {"Thumbs.db": b"x", "cat/Thumbs.db": b"x", "dog/notes.txt": b"x", "cat/.hidden.jpg": b"x"}
    )
    assert samples(folder.index(dataset_of(root), "train")) == expected
    assert "left out files that are no images: 2 x .db, 1 x .txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat", "Cat"), ("cat", "cat "), ("guinea pig", "guinea  pig"), ("caf\u00e9", "cafe\u0301"), ("fi", "\ufb01")],
)
def test_two_spellings_of_one_class_are_both_named(root, one, other):
    write_files(root / "two", {f"{one}/1.jpg": digit(1), f"{other}/2.jpg": digit(2), "dog/3.jpg": digit(3)})
    assert len(list((root / "two").iterdir())) == 3
    for classes in ((one, "dog"), (one, other, "dog")):
        with pytest.raises(ValueError, match="are two spellings of one class") as caught:
            folder.index(dataset_of(root, "two", classes=classes), "train")
        assert ascii(one) in str(caught.value)
        assert ascii(other) in str(caught.value)


def test_a_folder_spelt_otherwise_than_its_class_is_named(root):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    write_files(root / "macos", {f"{decomposed}/1.jpg": digit(1), "dog/3.jpg": digit(3)})
    with pytest.raises(ValueError, match="two spellings"):
        folder.index(dataset_of(root, "macos", classes=(composed, "dog")), "train")


def test_folders_that_are_no_classes_are_listed(root):
    write_files(
        root / "train", {f"{name}/1.jpg": digit(1) for name in ("ant", "bee", "cow", "eel", "fox", "gnu", "hen")}
    )
    with pytest.raises(ValueError, match="'ant', 'bee', 'cow', 'eel', 'fox' and 2 more are no class of dataset mine"):
        folder.index(dataset_of(root), "train")


def test_an_image_outside_the_class_folders_and_an_empty_class_are_named(root):
    write_files(root / "loose", {"cat/1.jpg": digit(1), "dog/2.jpg": digit(2), "3.jpg": digit(3)})
    with pytest.raises(ValueError, match=r"'3\.jpg' lies in no class folder"):
        folder.index(dataset_of(root, "loose"), "train")
    (root / "loose" / "3.jpg").unlink()
    with pytest.raises(ValueError, match="split train has no image of class 'guinea pig'"):
        folder.index(dataset_of(root, "loose"), "train")
    assert len(samples(folder.index(dataset_of(root, "loose"), "test"))) == 2


def test_raw_data_that_is_missing_empty_or_misnamed_is_one_line(root):
    with pytest.raises(ValueError, match="nowhere: no such file"):
        folder.index(dataset_of(root, "nowhere"), "train")
    with pytest.raises(ValueError, match="nowhere: no such file"):
        folder.fetch(dataset_of(root, "nowhere"))
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no images, expected class/…/image\.jpg"):
        folder.index(dataset_of(root, "empty"), "train")
    with pytest.raises(ValueError, match=r"got '\.\./train', expected a path below root"):
        folder.index(dataset_of(root, "../train"), "train")
    assert folder.fetch(dataset_of(root)) == [root / "train"]


@pytest.mark.parametrize(
    ("pattern", "name_of"),
    [
        (r"([^/]+)\.[a-zA-Z]+$", lambda name: Path(name).stem),
        (r"[^/.]+", lambda name: name.split("/")[0]),
        (r"^[^/]+/(?:deeper/still/)?(.)([0-9]?)", lambda name: Path(name).name[0]),
    ],
)
def test_a_pattern_names_the_cluster_by_its_first_group_or_its_whole_match(root, pattern, name_of):
    plain, index = folder.index(dataset_of(root), "train"), folder.index(dataset_of(root, cluster=pattern), "train")
    assert index.drop_columns("cluster").equals(plain)
    assert index["cluster"].type == pa.list_(pa.string())
    assert index["cluster"].to_pylist() == [[name_of(name)] for name in index["name"].to_pylist()]


def test_clusters_of_a_folder_and_of_an_archive_are_the_same_and_reach_the_reader(root, tmp_path):
    write_zip(root / "pets.zip", {f"pets/{name}": data for name, data in FILES.items()})
    dataset = dataset_of(root, cluster=r"^[^/]+/(.)")
    raw = {"num_shards": 2, "raw": {"images": "pets.zip", "inside": "pets"}}
    inside = changed(dataset, splits={"train": raw, "test": raw})
    built = [Shards(build(each, "train", tmp_path / name)) for name, each in {"a": dataset, "b": inside}.items()]
    assert built[0].clusters.to_pylist() == built[1].clusters.to_pylist()
    assert {name for names in built[0].clusters.to_pylist() for name in names} == {"0", "1", "2", "b", "d"}


@pytest.mark.parametrize("pattern", ["^cat/(.)", "(x?)", "(cat)|dog|guinea"])
def test_an_image_whose_name_has_no_cluster_is_named_with_the_pattern_before_anything_is_sharded(
    root, tmp_path, pattern
):
    with pytest.raises(ValueError, match=rf"^[^\n]*train: '(dog|cat)/.*': .*cluster '{re.escape(pattern)}'"):
        build(dataset_of(root, cluster=pattern), "train", tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
