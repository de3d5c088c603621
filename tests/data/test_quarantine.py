"""Bad images, other forms of the bytes and of the labels: on a user's folder, table and tars."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from digits_builder import build, changed
from photos import digit, encoded, folder_dataset, opened, photo, write_folder
from PIL import Image

from noah.data.reader import Shards
from noah.data.shards import index_split, write_job
from noah.data.verify import verify
from noah.files import read_json

TRUNCATED, EMPTY, TEXT, BOMB = "train/0/003.jpg", "train/1/010.jpg", "train/2/020.jpg", "train/0/015.jpg"
REASONS = {
    TRUNCATED: "does not decode as an image: ",
    EMPTY: "does not decode as an image: it has zero bytes",
    TEXT: "does not decode as an image: none of JPEG",
    BOMB: "has 9000 x 9000 pixels, expected at most 80,000,000",
}


@pytest.fixture
def dataset(tmp_path):
    write_folder(tmp_path / "raw")
    return folder_dataset(tmp_path / "raw")


@pytest.fixture
def broken(dataset, tmp_path):
    raw = tmp_path / "raw"
    (raw / TRUNCATED).write_bytes((raw / TRUNCATED).read_bytes()[:-100])
    (raw / EMPTY).write_bytes(b"")
    (raw / TEXT).write_bytes(b"<html>404</html>")
    (raw / BOMB).write_bytes(encoded(Image.new("L", (9000, 9000)), "PNG"))
    return dataset


def quarantine(folder):
    with open(folder / "quarantine.csv", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_bad_images_fail_the_manifest_by_default_after_all_were_listed(broken, tmp_path):
    with pytest.raises(ValueError, match=r"quarantine\.csv: 4 of the 24 images of photos train are bad") as error:
        build(broken, "train", tmp_path / "out")
    assert "(16.667%), expected at most allow_bad, 0.000%; first: train/" in str(error.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
    listed = quarantine(tmp_path / "out")
    assert listed.keys() == REASONS.keys()
    source = pq.read_table(tmp_path / "out" / "source.parquet")
    keys = dict(zip(source["container"].to_pylist(), source["key"].to_pylist(), strict=True))
    for path, reason in REASONS.items():
        assert listed[path]["reason"].startswith(reason)
        assert listed[path]["key"] == keys[path]


def test_a_share_may_be_allowed_and_the_manifest_says_it(broken, tmp_path):
    folder = build(changed(broken, allow_bad=0.2), "train", tmp_path / "out")
    manifest = read_json(folder / "manifest.json")
    assert (manifest["samples"], manifest["quarantine_share"]) == (20, 4 / 24)
    assert manifest["classes"] == {"0": 6, "1": 7, "2": 7}
    bad = {row["key"] for row in quarantine(folder).values()}
    keys = pq.read_table(folder / "index.parquet")["key"].to_pylist()
    assert sorted({*keys, *bad}) == [f"{i:08d}" for i in range(24)], "keys keep their gaps"
    assert not bad & set(keys)
    assert verify(broken, "train", folder)["samples"] == 20
    shards = Shards(folder)
    for i in range(len(shards)):
        assert opened(shards.read(i)).size == (24, 24)


def test_lists_of_bad_images_do_not_depend_on_jobs(broken, tmp_path):
    allowed = changed(broken, allow_bad=0.2)
    one = build(allowed, "train", tmp_path / "one", jobs=[1, 0])
    other = build(changed(allowed, shards_per_job=1), "train", tmp_path / "other")
    assert (one / "quarantine.csv").read_bytes() == (other / "quarantine.csv").read_bytes()
    assert (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


def test_no_bad_image_is_an_empty_list(dataset, tmp_path):
    folder = build(dataset, "train", tmp_path / "out")
    assert (folder / "quarantine.csv").read_text() == "path,reason,key\n"
    assert (folder / "jobs" / "00000.bad.csv").read_text() == "path,reason,key\n"
    assert read_json(folder / "manifest.json")["quarantine_share"] == 0.0


def test_a_changed_limit_keeps_the_shards(broken, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match="are bad"):
        build(broken, "train", folder)
    inodes = [path.stat().st_ino for path in sorted(folder.glob("*.tar"))]
    build(changed(broken, allow_bad=0.2), "train", folder)
    assert [path.stat().st_ino for path in sorted(folder.glob("*.tar"))] == inodes


def test_a_shard_of_bad_images_only_is_empty(dataset, tmp_path):
    splits = {**dataset.model_dump()["splits"], "test": {"num_shards": 6, "raw": {"images": "test"}}}
    dataset = changed(dataset, splits=splits, allow_bad=0.2)
    (tmp_path / "raw" / "test" / "1" / "001.jpg").write_bytes(b"")
    folder = build(dataset, "test", tmp_path / "out")
    assert sorted(entry["samples"] for entry in read_json(folder / "manifest.json")["shards"]) == [0, 1, 1, 1, 1, 1]
    assert verify(dataset, "test", folder)["samples"] == len(Shards(folder)) == 5


def test_good_images_keep_their_clusters_where_others_are_bad_even_all_of_a_shard(dataset, tmp_path):
    splits = {**dataset.model_dump()["splits"], "test": {"num_shards": 6, "raw": {"images": "test"}}}
    dataset = changed(dataset, splits=splits, allow_bad=0.2, cluster=r"(\d+)\.jpg")
    (tmp_path / "raw" / "test" / "1" / "001.jpg").write_bytes(b"")
    folder = build(dataset, "test", tmp_path / "out")
    assert verify(dataset, "test", folder)["samples"] == 5
    source = pq.read_table(folder / "source.parquet").to_pylist()
    names = {row["key"]: [row["name"][-7:-4]] for row in source}
    shards = Shards(folder)
    assert shards.clusters.to_pylist() == [names[key] for key in shards.keys]
    assert ["001"] not in shards.clusters.to_pylist()


def test_a_raw_file_that_is_gone_ends_the_job_and_is_no_bad_image(dataset, tmp_path):
    index_split(dataset, "test", tmp_path / "out")
    (tmp_path / "raw" / "test" / "0" / "003.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        write_job(dataset, "test", 0, tmp_path / "out")


def test_an_archive_cut_short_after_it_was_indexed_is_listed(dataset, tmp_path):
    with tarfile.open(tmp_path / "raw" / "train.tar", "w") as tar:
        tar.add(tmp_path / "raw" / "train", arcname=".")
    splits = {**dataset.model_dump()["splits"], "train": {"num_shards": 2, "raw": {"images": "train.tar"}}}
    dataset = changed(dataset, splits=splits)
    index_split(dataset, "train", tmp_path / "out")
    path = tmp_path / "raw" / "train.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_job(dataset, "train", 0, tmp_path / "out")
    listed = (tmp_path / "out" / "jobs" / "00000.bad.csv").read_text().splitlines()[1:]
    assert len(listed) > 5
    assert all(line.startswith("train.tar/") and "the file is cut short" in line for line in listed)


def test_images_may_be_stored_smaller(dataset, tmp_path):
    (tmp_path / "raw" / "train" / "0" / "photo.png").write_bytes(encoded(photo(160, 120), "PNG"))
    dataset = changed(dataset, reencode={"short_side": 30, "quality": 80})
    folder = build(dataset, "train", tmp_path / "out")
    shards = Shards(folder)
    sizes = [opened(shards.read(i)).size for i in range(len(shards))]
    assert {opened(shards.read(i)).format for i in range(len(shards))} == {"JPEG"}
    assert sorted(set(sizes)) == [(24, 24), (40, 30)]
    again = build(dataset, "train", tmp_path / "again")
    assert (folder / "manifest.json").read_bytes() == (again / "manifest.json").read_bytes()
    verify(dataset, "train", folder)


def test_several_labels_go_into_json_and_are_counted_per_class(dataset, tmp_path):
    labels = {"0/000.jpg": "0;2", "1/001.jpg": "1", "2/002.jpg": "", "0/003.jpg": "2;1;0"}
    lines = [f"train/{path},{value},{split}" for path, value in labels.items() for split in ("train", "test")]
    (tmp_path / "raw" / "table.csv").write_text("path,labels,split\n" + "\n".join(lines) + "\n")
    splits = {split: {"num_shards": 1, "raw": {"table": "table.csv"}} for split in ("train", "test")}
    dataset = changed(dataset, source="table", multi_label=True, splits=splits, allow_bad=0.3)
    folder = build(dataset, "train", tmp_path / "out")
    manifest = read_json(folder / "manifest.json")
    assert manifest["classes"] == {"0": 2, "1": 2, "2": 2}
    assert quarantine(folder)["train/2/002.jpg"]["reason"] == "has no label"
    samples = list(wds.WebDataset(str(folder / "photos-train-000000.tar"), shardshuffle=False).to_tuple("json", "jpg"))
    index = pq.read_table(folder / "index.parquet")
    assert sorted(index["labels"].to_pylist()) == [[0, 1, 2], [0, 2], [1]]
    assert [json.loads(label) for label, _ in samples] == [{"labels": labels} for labels in index["labels"].to_pylist()]
    assert verify(dataset, "train", folder)["samples"] == 3


@pytest.fixture
def foreign(dataset, tmp_path):
    """Two WebDataset tars of somebody else, one image of which is broken."""
    for number, count in enumerate((5, 3)):
        with wds.TarWriter(str(tmp_path / "raw" / f"theirs-{number}.tar")) as tar:
            for i in range(count):
                image = encoded(digit(10 * number + i))
                cut = image[: 40 if (number, i) == (1, 1) else None]
                tar.write({"__key__": f"s{i}", "jpg": cut, "cls": str(i % 3), "note.txt": "hello"})
    splits = {
        split: {"num_shards": 2, "raw": {"tars": "theirs-{0..1}.tar", "label": "cls"}} for split in ("train", "test")
    }
    return changed(dataset, source="webdataset", splits=splits, allow_bad=0.2)


def test_tars_in_place_become_links_read_through_the_same_index(foreign, tmp_path):
    folder = build(foreign, "train", tmp_path / "out")
    for number in range(2):
        link = folder / f"photos-train-{number:06d}.tar"
        assert link.is_symlink()
        assert link.resolve() == (tmp_path / "raw" / f"theirs-{number}.tar").resolve()
    assert list(quarantine(folder)) == ["theirs-1.tar/s1"]
    shards = Shards(folder)
    assert shards.shard_of.tolist() == [0] * 5 + [1] * 2
    assert shards.labels.tolist() == [0, 1, 2, 0, 1, 0, 2]
    expected = [encoded(digit(i)) for i in (0, 1, 2, 3, 4, 10, 12)]
    assert [shards.read(i) for i in range(7)] == expected
    assert verify(foreign, "train", folder)["samples"] == 7
    first = (folder / "manifest.json").read_bytes()
    assert (build(foreign, "train", tmp_path / "again") / "manifest.json").read_bytes() == first


def test_an_altered_tar_in_place_is_found(foreign, tmp_path):
    folder = build(foreign, "train", tmp_path / "out")
    path = tmp_path / "raw" / "theirs-0.tar"
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[600] ^= 1
    path.write_bytes(data.tobytes())
    with pytest.raises(ValueError, match=r"photos-train-000000\.tar: sha256: got"):
        verify(foreign, "train", folder)


def test_tars_in_place_are_neither_divided_nor_encoded_again(foreign, tmp_path):
    with pytest.raises(ValueError, match="reencode is given, expected none: source webdataset is read in place"):
        index_split(changed(foreign, reencode={"short_side": 30}), "train", tmp_path / "out")
    splits = {split: {**spec.model_dump(), "num_shards": 1} for split, spec in foreign.splits.items()}
    with pytest.raises(ValueError, match=r"splits\.train\.num_shards is 1, expected 2"):
        index_split(changed(foreign, splits=splits), "train", tmp_path / "out")
    with tarfile.open(tmp_path / "raw" / "theirs-1.tar", "w") as tar:
        info = tarfile.TarInfo("readme.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    with pytest.raises(ValueError, match=r"num_shards is 2, expected 1: one for each tar in place that has an image"):
        index_split(foreign, "test", tmp_path / "out")
