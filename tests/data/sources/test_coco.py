import hashlib
import json
import re
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

import pytest
from annotated_builder import annotation_json, jpeg, write_folder, write_zip
from digits_builder import build, changed
from tests_support import REPOSITORY

from noah.config import Dataset, load_dataset
from noah.data.reader import Shards
from noah.data.sources import coco
from noah.data.verify import verify

CONFIG = REPOSITORY / "config"
CLASSES = ("person", "bicycle", "car", "traffic light")
CATEGORIES = [  # ids with gaps and in no order, as a reader must not rely on either
    {"id": 10, "name": "traffic light", "supercategory": "outdoor"},
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 3, "name": "car", "supercategory": "vehicle"},
    {"id": 2, "name": "bicycle", "supercategory": "vehicle"},
]
TRAIN = {9: [1, 3, 3], 25: [2], 30: [10, 1], 34: [], 36: [3], 49: [1, 2, 3, 10]}
"""Image id -> category id of each of its annotations."""
TEST = {42: [1], 73: [], 74: [10, 2]}
LABELS = {9: [0, 2], 25: [1], 30: [0, 3], 36: [2], 49: [0, 1, 2, 3]}


def names(split, ids):
    return {number: f"COCO_{split}2014_{number:012d}.jpg" for number in ids}


def annotations(split, content, year=2014, categories=CATEGORIES):
    pairs = [(image, category) for image, found in content.items() for category in found]
    return annotation_json(year, names(split, content), categories, pairs)


@pytest.fixture
def replica(tmp_path, monkeypatch) -> Dataset:
    """The zips of 2014 as they are downloaded."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "coco"
    root.mkdir()
    for split, content in (("train", TRAIN), ("val", TEST)):
        images = {f"{split}2014/{name}": jpeg(number) for number, name in names(split, content).items()}
        write_zip(root / f"{split}2014.zip", {f"{split}2014/": b"", **images})
    write_zip(
        root / "annotations_trainval2014.zip",
        {
            "annotations/instances_train2014.json": annotations("train", TRAIN),
            "annotations/instances_val2014.json": annotations("val", TEST),
            "annotations/captions_val2014.json": b"{}",
        },
        zipfile.ZIP_DEFLATED,
    )
    official = load_dataset("coco2014", CONFIG)
    splits = {name: {**split.model_dump(), "num_shards": 2, "samples": None} for name, split in official.splits.items()}
    files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in root.iterdir()}
    return changed(official, root=str(root), classes=CLASSES, splits=splits, files=files, image_size=32)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_raw(dataset, **roles):
    """Other raw files of the training split."""
    splits = {name: split.model_dump() for name, split in dataset.splits.items()}
    splits["train"]["raw"] |= roles
    return changed(dataset, splits=splits)


def with_annotations(dataset, content: bytes):
    (dataset.root_path / "train.json").write_bytes(content)
    return with_raw(dataset, annotations="train.json")


def labels_of(dataset, split="train"):
    table = coco.index(dataset, split)
    return dict(zip(table["name"].to_pylist(), table["labels"].to_pylist(), strict=True))


def test_labels_are_places_of_category_ids_and_images_without_annotation_are_left_out(replica):
    assert labels_of(replica) == {names("train", TRAIN)[image]: labels for image, labels in LABELS.items()}


def test_crowds_count_and_a_category_counts_once(replica):
    assert labels_of(replica)[names("train", TRAIN)[9]] == [0, 2]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_folder_and_a_zip_give_the_same_order_and_bytes(replica, method):
    root = replica.root_path
    members = {f"train2014/{name}": jpeg(number) for number, name in names("train", TRAIN).items()}
    write_zip(root / "again.zip", members, method)
    write_folder(root, members)
    zipped, folder = with_raw(replica, images="again.zip"), with_raw(replica, images="train2014")
    content = []
    for dataset in (replica, zipped, folder):
        read = coco.open_source(dataset, "train")
        content.append([(row["name"], row["labels"], *read(row)) for row in coco.index(dataset, "train").to_pylist()])
    assert content[0] == content[1] == content[2]
    assert {extension for _, _, extension, _ in content[0]} == {"jpg"}


def test_annotations_may_be_unzipped(replica):
    with zipfile.ZipFile(replica.root_path / "annotations_trainval2014.zip") as archive:
        archive.extractall(replica.root_path)
    plain = with_raw(replica, annotations="annotations/instances_train2014.json")
    assert coco.index(plain, "train").equals(coco.index(replica, "train"))


def test_the_replica_becomes_verified_shards_that_hold_images_and_labels(replica, tmp_path):
    for split, count in (("train", 5), ("test", 2)):
        folder = build(replica, split, tmp_path / split)
        assert verify(replica, split, folder)["samples"] == count
    rows = coco.index(replica, "train").to_pylist()
    stored = Shards(tmp_path / "train")
    wanted = {name: jpeg(number) for number, name in names("train", TRAIN).items()}
    assert [bytes(stored.read(number)) for number in range(5)] == [wanted[row["name"]] for row in rows]


def test_fetch_lists_all_that_is_missing_or_wrong_and_where_it_is_to_be_had(replica):
    (replica.root_path / "train2014.zip").unlink()
    with open(replica.root_path / "val2014.zip", "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"train2014.zip: no such file; val2014.zip: has 100 bytes.*cocodataset.org"):
        coco.fetch(replica)


def test_fetch_names_the_files_that_are_right(replica):
    found = {path.name for path in coco.fetch(replica)}
    assert found == {"annotations_trainval2014.zip", "train2014.zip", "val2014.zip"}


def test_annotations_of_another_year_are_named_with_their_year(replica):
    other = json.loads(annotations("train", TRAIN, year=2017))
    for image in other["images"]:
        image["file_name"] = f"{image['id']:012d}.jpg"
    dataset = with_annotations(replica, json.dumps(other).encode())
    with pytest.raises(
        ValueError, match=r"train.json \(year 2017\): 5 of 5 images are not in train2014.zip.*another year"
    ):
        coco.index(dataset, "train")


def test_an_image_that_is_not_in_the_archive_is_counted_and_named(replica):
    (replica.root_path / "train2014").mkdir()
    for number, name in names("train", TRAIN).items():
        if number not in (25, 34):  # 34 has no annotation: nobody misses it
            (replica.root_path / "train2014" / name).write_bytes(jpeg(number))
    with pytest.raises(
        ValueError, match=r"1 of 5 images are not in train2014, the first is 'COCO_train2014_000000000025"
    ):
        coco.index(with_raw(replica, images="train2014"), "train")


def test_an_image_that_lies_in_two_folders_of_the_archive_is_refused(replica):
    members = {f"{folder}/{name}": jpeg(9) for folder in "ab" for name in names("train", TRAIN).values()}
    write_zip(replica.root_path / "twice.zip", members)
    with pytest.raises(ValueError, match=r"twice.zip: image 'COCO_train2014_\d+.jpg' is there twice"):
        coco.index(with_raw(replica, images="twice.zip"), "train")


def altered(key, number, **fields):
    data = json.loads(annotations("train", TRAIN))
    data[key][number] |= fields
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (altered("images", 1, id=9), r"images\[1\]: id 9 is there twice"),
        (altered("images", 1, file_name="COCO_train2014_000000000009.jpg"), "file_name 'COCO_.*09.jpg' is there twice"),
        (altered("images", 0, file_name=7), r"images\[0\]: file_name is 7, expected str"),
        (altered("annotations", 2, image_id=77), r"annotations\[2\]: image_id is 77, expected a known one"),
        (altered("annotations", 2, category_id=12), r"annotations\[2\]: category_id is 12, expected a known one"),
        (altered("categories", 3, id=1), r"categories\[3\]: id 1 is there twice"),
        (altered("categories", 2, name="cart"), r"category 3 is 'cart', expected class 'car'"),
        (
            annotations("train", TRAIN, categories=[*CATEGORIES, {"id": 4, "name": "bus"}]),
            "got 5 categories, expected 4",
        ),
        (b'{"images": [], "categories": [], "info": {}}', "no list 'annotations'"),
        (b"[1, 2]", "no list 'images'"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
    ],
)
def test_wrong_annotations_are_refused_in_one_line(replica, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        coco.index(with_annotations(replica, content), "train")
    assert str(caught.value).startswith(str(replica.root_path / "train.json"))
    assert "\n" not in str(caught.value)


def test_a_member_that_the_zip_of_annotations_lacks_is_named_with_those_it_has(replica):
    dataset = with_raw(replica, annotations="annotations_trainval2014.zip/instances_train2014.json")
    with pytest.raises(
        ValueError, match=r"no member 'instances_train2014.json', found annotations/instances_train2014"
    ):
        coco.index(dataset, "train")


def test_a_damaged_zip_of_annotations_is_named(replica):
    path = replica.root_path / "cut.zip"
    path.write_bytes((replica.root_path / "annotations_trainval2014.zip").read_bytes()[:-200])
    dataset = with_raw(replica, annotations="cut.zip/annotations/instances_train2014.json")
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a whole archive")):
        coco.index(dataset, "train")


def test_a_missing_root_is_one_line(replica):
    shutil.rmtree(replica.root_path)
    with pytest.raises(ValueError, match="no such folder, expected the raw data of dataset coco2014"):
        coco.index(replica, "train")


@pytest.mark.parametrize("year", [2014, 2017])
def test_the_yamls_name_the_official_files_and_the_80_classes_in_the_order_of_their_ids(year):
    torchvision = Path(find_spec("torchvision").origin).parent  # importing it takes seconds
    categories = run_path(str(torchvision / "models" / "_meta.py"))["_COCO_CATEGORIES"]  # by id, with "N/A" in gaps
    dataset = load_dataset(f"coco{year}", CONFIG)
    assert dataset.multi_label
    assert list(dataset.classes) == [name for name in categories[1:] if name != "N/A"]
    names = {"train": f"train{year}", "test": f"val{year}"}
    for split, name in names.items():
        raw = dataset.splits[split].raw
        assert raw["images"] == f"{name}.zip"
        assert raw["annotations"] == f"annotations_trainval{year}.zip/annotations/instances_{name}.json"
    assert set(dataset.files) == {f"{name}.zip" for name in (*names.values(), f"annotations_trainval{year}")}
