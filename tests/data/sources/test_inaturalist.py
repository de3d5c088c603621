import gzip
import hashlib
import json
import shutil

import pytest
from annotated_builder import annotation_json, jpeg, write_folder, write_tar
from digits_builder import build, changed
from tests_support import REPOSITORY

from noah.config import Dataset, load_dataset
from noah.data.sources import inaturalist
from noah.data.verify import verify

CONFIG = REPOSITORY / "config"
SPECIES = 3
CATEGORIES = [{"id": number, "name": str(number), "supercategory": "Plantae"} for number in (2, 0, 1)]
TRAIN = {11: ("Plantae/0/aa.jpg", 0), 12: ("Plantae/1/bb.jpg", 1), 13: ("Aves/2/aa.jpg", 2), 14: ("Aves/2/cc.jpg", 2)}
"""Image id -> file below train_val2018, species. Two files are called aa.jpg."""
TEST = {21: ("Plantae/1/dd.jpg", 1), 22: ("Plantae/0/ee.jpg", 0)}


def annotations(content, year=2018, categories=CATEGORIES):
    images = {number: f"train_val{year}/{path}" for number, (path, _) in content.items()}
    pairs = [(number, species) for number, (_, species) in content.items() if species is not None]
    return annotation_json(year, images, categories, pairs)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def downloaded(tmp_path, monkeypatch) -> Dataset:
    """The archives of 2018 as they are downloaded: nothing is decompressed."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "inat"
    root.mkdir()
    images = {f"train_val2018/{path}": jpeg(number) for number, (path, _) in (TRAIN | TEST).items()}
    write_tar(root / "train_val2018.tar.gz", images)
    write_tar(root / "train2018.json.tar.gz", {"train2018.json": annotations(TRAIN)})
    write_tar(root / "val2018.json.tar.gz", {"val2018.json": annotations(TEST)})
    official = load_dataset("inaturalist2018", CONFIG)
    splits = {name: {**split.model_dump(), "num_shards": 1, "samples": None} for name, split in official.splits.items()}
    files = {file.name: {"md5": md5(file)} for file in root.iterdir()}
    classes = tuple(map(str, range(SPECIES)))
    return changed(official, root=str(root), classes=classes, splits=splits, files=files, image_size=32)


@pytest.fixture
def replica(downloaded) -> Dataset:
    inaturalist.fetch(downloaded)
    return downloaded


def with_raw(dataset, **roles):
    """Other raw files of the training split."""
    splits = {name: split.model_dump() for name, split in dataset.splits.items()}
    splits["train"]["raw"] |= roles
    return changed(dataset, splits=splits)


def with_annotations(dataset, content: bytes):
    (dataset.root_path / "train.json").write_bytes(content)
    return with_raw(dataset, annotations="train.json")


def test_fetch_decompresses_the_images_once_and_leaves_the_annotations_packed(downloaded):
    root = downloaded.root_path
    paths = inaturalist.fetch(downloaded)
    assert {path.name for path in paths} == {"train_val2018.tar", "train2018.json.tar.gz", "val2018.json.tar.gz"}
    assert (root / "train_val2018.tar").read_bytes() == gzip.decompress((root / "train_val2018.tar.gz").read_bytes())
    written = (root / "train_val2018.tar").stat().st_mtime_ns
    assert inaturalist.fetch(downloaded) == paths
    assert (root / "train_val2018.tar").stat().st_mtime_ns == written


def test_the_gzip_may_be_deleted_once_the_tar_is_there(replica):
    (replica.root_path / "train_val2018.tar.gz").unlink()
    inaturalist.fetch(replica)
    assert inaturalist.index(replica, "train").num_rows == len(TRAIN)


def test_index_says_in_one_line_to_run_fetch_while_only_the_gzip_is_there(downloaded):
    with pytest.raises(ValueError, match=r"train_val2018.tar.gz: got a gzip.*run `noah fetch inaturalist2018` once"):
        inaturalist.index(downloaded, "train")


def test_fetch_lists_all_that_is_missing_or_wrong_and_decompresses_nothing(downloaded):
    root = downloaded.root_path
    (root / "val2018.json.tar.gz").unlink()
    data = (root / "train_val2018.tar.gz").read_bytes()
    (root / "train_val2018.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"val2018.json.tar.gz: no such file; train_val2018.tar.gz: md5 is.*inat_comp"):
        inaturalist.fetch(downloaded)
    assert not (root / "train_val2018.tar").exists()


def test_a_gzip_that_is_cut_short_leaves_no_tar_behind(downloaded):
    root = downloaded.root_path
    data = (root / "train_val2018.tar.gz").read_bytes()
    (root / "train_val2018.tar.gz").write_bytes(data[: len(data) // 2])
    unknown = changed(downloaded, files={})  # a file of which no checksum is known
    with pytest.raises(ValueError, match=r"train_val2018.tar.gz: cannot be decompressed"):
        inaturalist.fetch(unknown)
    assert [path.name for path in root.iterdir() if "train_val2018.tar" in path.name] == ["train_val2018.tar.gz"]


def test_the_label_is_the_category_id_and_images_are_matched_by_their_whole_path(replica):
    table = inaturalist.index(replica, "train")
    found = dict(zip(table["name"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert found == {f"train_val2018/{path}": species for path, species in TRAIN.values()}
    read = inaturalist.open_source(replica, "train")
    expected = {f"train_val2018/{path}": ("jpg", jpeg(number)) for number, (path, _) in TRAIN.items()}
    assert {row["name"]: read(row) for row in table.to_pylist()} == expected


def test_an_unpacked_folder_gives_the_order_of_the_archive(replica):
    images = {f"train_val2018/{path}": jpeg(number) for number, (path, _) in (TRAIN | TEST).items()}
    write_folder(replica.root_path, images)
    folder = with_raw(replica, images="train_val2018")
    order = [inaturalist.index(dataset, "train").select(["key", "name", "label"]) for dataset in (folder, replica)]
    assert order[0].equals(order[1])


def test_the_layout_of_2021_has_an_archive_and_a_folder_of_its_own_for_each_split(replica):
    root = replica.root_path
    for split, content in (("train", TRAIN), ("val", TEST)):
        images = {number: f"{split}/{species:05d}_Plantae/{number}.jpg" for number, (_, species) in content.items()}
        pairs = [(number, species) for number, (_, species) in content.items()]
        write_tar(root / f"{split}.tar.gz", {name: jpeg(number) for number, name in images.items()})
        write_tar(root / f"{split}.json.tar.gz", {f"{split}.json": annotation_json(2021, images, CATEGORIES, pairs)})
    raw = load_dataset("inaturalist2021", CONFIG)
    splits = {name: {"num_shards": 1, "raw": split.raw} for name, split in raw.splits.items()}
    dataset = changed(replica, splits=splits, files={})
    inaturalist.fetch(dataset)
    assert [inaturalist.index(dataset, split).num_rows for split in ("train", "test")] == [len(TRAIN), len(TEST)]


def test_the_replica_becomes_verified_shards(replica, tmp_path):
    for split, count in (("train", len(TRAIN)), ("test", len(TEST))):
        assert verify(replica, split, build(replica, split, tmp_path / split))["samples"] == count


def test_an_image_without_annotation_has_no_label(replica):
    dataset = with_annotations(replica, annotations(TRAIN | {14: ("Aves/2/cc.jpg", None)}))
    table = inaturalist.index(dataset, "train")
    found = dict(zip(table["name"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert found["train_val2018/Aves/2/cc.jpg"] is None
    assert sorted(label for label in found.values() if label is not None) == [0, 1, 2]


def test_an_image_of_two_species_is_refused(replica):
    data = json.loads(annotations(TRAIN))
    data["annotations"].append({"id": 1, "image_id": 11, "category_id": 2})
    with pytest.raises(ValueError, match=r"image 11 has categories \[0, 2\], expected one"):
        inaturalist.index(with_annotations(replica, json.dumps(data).encode()), "train")


def test_categories_of_another_year_are_refused_with_both_counts(replica):
    more = [*CATEGORIES, {"id": 3, "name": "3"}]
    dataset = with_annotations(replica, annotations(TRAIN, 2019, more))
    with pytest.raises(
        ValueError, match=r"\(year 2019\): got 4 categories with ids from 0 to 3, expected 0 to 2.*year"
    ):
        inaturalist.index(dataset, "train")


def test_images_of_another_year_are_counted(replica):
    with pytest.raises(ValueError, match=r"\(year 2019\): 4 of 4 images are not in train_val2018.tar"):
        inaturalist.index(with_annotations(replica, annotations(TRAIN, 2019)), "train")


def test_a_species_without_an_image_is_named(replica):
    dataset = with_annotations(replica, annotations({11: TRAIN[11], 12: TRAIN[12]}))
    with pytest.raises(ValueError, match="split train has no image of class '2'"):
        inaturalist.index(dataset, "train")


def test_a_damaged_archive_of_annotations_is_named(replica):
    path = replica.root_path / "cut.json.tar.gz"
    data = (replica.root_path / "train2018.json.tar.gz").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    dataset = with_raw(replica, annotations="cut.json.tar.gz/train2018.json")
    with pytest.raises(ValueError, match=r"cut.json.tar.gz: not a whole archive"):
        inaturalist.index(dataset, "train")


def test_without_room_for_the_tar_fetch_says_so(downloaded, monkeypatch):
    def no_room(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", no_room)
    with pytest.raises(ValueError, match=r"cannot be decompressed to train_val2018.tar: .*No space left"):
        inaturalist.fetch(downloaded)


@pytest.mark.parametrize(("year", "species"), [(2018, 8142), (2019, 1010), (2021, 10_000)])
def test_the_yamls_name_packed_files_with_a_checksum_each(year, species):
    dataset = load_dataset(f"inaturalist{year}", CONFIG)
    assert dataset.num_classes == species
    for split in dataset.splits.values():
        assert dataset.files[split.raw["images"]].md5
        assert dataset.files[split.raw["annotations"].split("/")[0]].md5
