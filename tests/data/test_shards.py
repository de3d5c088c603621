import io
import os
import signal
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from digits_builder import build, changed

from noah.data import shard_job
from noah.data.shards import index_split, shards_hint, write_job, write_manifest
from noah.data.sources import SOURCES, digits_scenes
from noah.data.verify import verify
from noah.files import read_json, sha256_file, write_json


def contents(folder):
    """Everything that jobs do not write for themselves."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def job_contents(folder):
    """Everything that jobs write for themselves."""
    return {path.name: path.read_bytes() for path in (folder / "jobs").iterdir()}


@pytest.fixture
def source(monkeypatch):
    """Lets a test replace functions of the digits' source."""

    def replace(**functions):
        module = SimpleNamespace(index=digits_scenes.index, open_source=digits_scenes.open_source)
        vars(module).update(functions)
        monkeypatch.setitem(SOURCES, "digits_scenes", module)

    return replace


def test_a_rebuild_is_byte_identical_whatever_the_order_and_number_of_jobs(tiny, train_folder, tmp_path):
    expected = contents(train_folder)
    assert sum(name.endswith(".tar") for name in expected) == 5
    assert contents(build(tiny, "train", tmp_path / "reversed", jobs=[2, 0, 1])) == expected
    for per_job in (1, 5):
        dataset = changed(tiny, shards_per_job=per_job)
        assert contents(build(dataset, "train", tmp_path / f"by{per_job}")) == expected
    assert contents(build(tiny, "train", train_folder, jobs=[1, 1, 0, 2])) == expected


def test_shards_are_consecutive_slices_of_nearly_equal_length(train_folder):
    manifest, index = read_json(train_folder / "manifest.json"), pq.read_table(train_folder / "index.parquet")
    assert [entry["samples"] for entry in manifest["shards"]] == [12, 12, 12, 12, 13]
    assert index["shard"].to_pylist() == sorted(index["shard"].to_pylist())
    assert index["key"].to_pylist() == pq.read_table(train_folder / "source.parquet")["key"].to_pylist()


def test_clusters_of_the_source_index_are_those_of_the_index(train_folder):
    source, index = (pq.read_table(train_folder / f"{name}.parquet") for name in ("source", "index"))
    assert index.column_names == ["key", "shard", "offset", "size", "label", "cluster"]
    assert index["cluster"].type == pa.list_(pa.string())
    assert index["cluster"].to_pylist() == source["cluster"].to_pylist()


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (pa.array(["a"] * 61), "type of column 'cluster': got 'string'"),
        (pa.array([["a"]] * 60 + [None], pa.list_(pa.string())), "row 60: cluster is None, expected"),
        (pa.array([[]] + [["a"]] * 60, pa.list_(pa.string())), r"row 0: cluster is \[\], expected"),
    ],
)
def test_a_source_index_whose_clusters_are_no_names_is_refused(tiny, tmp_path, clusters, message):
    index_split(tiny, "train", tmp_path)
    table = pq.read_table(tmp_path / "source.parquet").drop_columns("cluster").append_column("cluster", clusters)
    pq.write_table(table, tmp_path / "source.parquet")
    with pytest.raises(ValueError, match=rf"source\.parquet: {message}"):
        write_job(tiny, "train", 0, tmp_path)


def test_verify_names_a_cluster_that_is_not_the_source_index_s(tiny, train_folder):
    edit_table(train_folder, "index", "cluster", 3, ["a"])
    with pytest.raises(ValueError, match=r"index\.parquet: cluster of row 3: got \['a'\], expected \['"):
        verify(tiny, "train", train_folder)


def test_the_manifest_counts_and_hashes_what_is_there(train_folder):
    manifest = read_json(train_folder / "manifest.json")
    assert manifest["samples"] == sum(manifest["classes"].values()) == 61
    assert manifest["quarantine_share"] == 0.0
    for entry in manifest["shards"]:
        path = train_folder / entry["name"]
        assert (entry["bytes"], entry["sha256"]) == (path.stat().st_size, sha256_file(path))


def test_gnu_tar_lists_a_shard(tiny, train_folder):
    tar = train_folder / "tiny-train-000000.tar"
    listing = subprocess.run(["tar", "tvf", tar], check=True, capture_output=True, text=True, env={"TZ": "UTC"}).stdout
    lines = [line.split() for line in listing.splitlines()]
    assert [line[-1] for line in lines] == [f"{key:08d}.{field}" for key in range(12) for field in ("cls", "png")]
    assert {(line[0], line[1], line[3]) for line in lines} == {("-r--r--r--", "noah/noah", "1970-01-01")}


def test_webdataset_reads_the_shards(train_folder):
    urls = sorted(str(path) for path in train_folder.glob("*.tar"))
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "cls"))
    index = pq.read_table(train_folder / "index.parquet")
    assert [(key, label) for key, _, label in samples] == list(
        zip(index["key"].to_pylist(), index["label"].to_pylist(), strict=True)
    )
    assert all(image.size == (16, 16) for _, image, _ in samples)


KILLED_JOB = """
import json, sys, time
from pathlib import Path
from noah.config import Dataset
from noah.data import shards
from noah.data.sources import digits_scenes

dataset, folder = Dataset.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2])
open_source = digits_scenes.open_source

def slow(dataset, split):
    read = open_source(dataset, split)
    def wait_in_the_second_shard(row):
        if int(row["key"]) == 20:
            print("writing", flush=True)
            time.sleep(60)
        return read(row)
    return wait_in_the_second_shard

digits_scenes.open_source = slow
shards.write_job(dataset, "train", 0, folder)
"""


def test_a_killed_job_leaves_no_partial_shard_and_its_retry_goes_on_and_is_exact(
    tiny, train_folder, tmp_path, monkeypatch
):
    folder = tmp_path / "killed"
    index_split(tiny, "train", folder)
    arguments = [sys.executable, "-c", KILLED_JOB, tiny.model_dump_json(), str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not list(folder.glob("*.tar"))
    parts, whole = folder / "jobs" / "00000.parts", "tiny-train-000000.tar"
    assert [path.name for path in parts.glob("tiny*.tar")] == [whole]
    assert (parts / whole).read_bytes() == (train_folder / whole).read_bytes()
    assert list(parts.glob(".*.tmp")), "the kill came in the middle of a write"
    written = []
    write_shard = shard_job.write_shard
    monkeypatch.setattr("noah.data.shards.write_shard", lambda *a: written.append(a[1]) or write_shard(*a))
    for job in (1, 2):
        write_job(tiny, "train", job, folder)
    with pytest.raises(ValueError, match=r"jobs/00000\.json: no such file: shard job 0 of tiny train is not finished"):
        write_manifest(tiny, "train", folder)
    write_job(tiny, "train", 0, folder)
    assert written == [2, 3, 4, 1]
    write_manifest(tiny, "train", folder)
    assert contents(folder) == contents(train_folder)
    assert job_contents(folder) == job_contents(train_folder)


def interrupted(tiny, folder, monkeypatch):
    """Leaves the first job with its first shard written."""
    write_shard = shard_job.write_shard

    def write(dataset, shard, *rest):
        if shard == 1:
            raise KeyboardInterrupt
        return write_shard(dataset, shard, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("noah.data.shards.write_shard", write)
        with pytest.raises(KeyboardInterrupt):
            write_job(tiny, "train", 0, folder)
    return folder / "jobs" / "00000.parts" / "tiny-train-000000.tar"


def test_an_interrupted_job_of_lists_gives_the_bytes_of_one_attempt(tiny, tmp_path, monkeypatch):
    scenes = {**tiny.scenes.model_dump(), "digits": [1, 2]}
    multi = changed(tiny, multi_label=True, scenes=scenes)
    whole = build(multi, "train", tmp_path / "whole")
    folder = tmp_path / "interrupted"
    index_split(multi, "train", folder)
    interrupted(multi, folder, monkeypatch)
    assert job_contents(build(multi, "train", folder)) == job_contents(whole)


def test_a_part_that_was_harmed_or_belongs_to_other_data_is_made_again(tiny, train_folder, tmp_path, monkeypatch):
    folder = tmp_path / "interrupted"
    index_split(tiny, "train", folder)
    part = interrupted(tiny, folder, monkeypatch)
    content = bytearray(part.read_bytes())
    content[-2000] ^= 1
    part.write_bytes(content)
    assert contents(build(tiny, "train", folder)) == contents(train_folder)

    (folder / "jobs" / "00000.json").unlink()
    part = interrupted(changed(tiny, scenes={**tiny.scenes.model_dump(), "clutter": 0}), folder, monkeypatch)
    assert part.read_bytes() != (train_folder / part.name).read_bytes()
    assert contents(build(tiny, "train", folder)) == contents(train_folder)


def test_a_job_that_is_whole_is_left_alone_and_one_that_was_harmed_is_made_again(tiny, train_folder):
    expected = contents(train_folder)
    tars = sorted(train_folder.glob("*.tar"))
    inodes = [tar.stat().st_ino for tar in tars]
    for job in range(3):
        write_job(tiny, "train", job, train_folder)
    assert [tar.stat().st_ino for tar in tars] == inodes
    flip_last_byte_of_payload(train_folder)
    (train_folder / "jobs" / "00001.bad.csv").write_text("")
    for job in range(3):
        write_job(tiny, "train", job, train_folder)
    assert [tar.stat().st_ino == inode for tar, inode in zip(tars, inodes, strict=True)] == [False] * 4 + [True]
    assert contents(train_folder) == expected


def test_a_missing_tar_is_named_by_the_manifest(tiny, train_folder):
    (train_folder / "tiny-train-000003.tar").unlink()
    with pytest.raises(ValueError, match=r"tiny-train-000003\.tar: no such file"):
        write_manifest(tiny, "train", train_folder)


def test_jobs_of_another_index_or_division_are_refused(tiny, train_folder):
    with pytest.raises(ValueError, match=r"jobs/00000\.json: shards of job 0, to be run again"):
        write_manifest(changed(tiny, shards_per_job=3), "train", train_folder)
    reseeded = changed(tiny, seed=1)
    index_split(reseeded, "train", train_folder)
    with pytest.raises(ValueError, match=r"jobs/00000\.json: source\.parquet of job 0, to be run again"):
        write_manifest(reseeded, "train", train_folder)


def test_raw_data_that_is_not_what_was_indexed_ends_the_job(tiny, tmp_path, source):
    def open_source(dataset, split):
        def read(row):
            raise ValueError("images.npy: no digit of train")

        return read

    source(open_source=open_source)
    index_split(tiny, "train", tmp_path)
    with pytest.raises(ValueError, match=r"^images\.npy: no digit of train"):
        write_job(tiny, "train", 0, tmp_path)
    assert not list(tmp_path.glob("*.tar"))
    assert not list((tmp_path / "jobs").rglob(".*.tmp"))


def test_a_label_out_of_range_is_named(tiny, tmp_path):
    index_split(tiny, "train", tmp_path)
    table = pq.read_table(tmp_path / "source.parquet")
    labels = table["label"].to_pylist()
    labels[3] = 10
    pq.write_table(table.set_column(4, "label", pa.array(labels, pa.int32())), tmp_path / "source.parquet")
    with pytest.raises(ValueError, match="key 00000003: label is 10, expected 0 to 9"):
        write_job(tiny, "train", 0, tmp_path)


def test_an_empty_split_and_more_shards_than_samples_are_refused(tiny, tmp_path, source):
    splits = {name: split.model_dump() for name, split in tiny.splits.items()}
    splits["test"]["num_shards"] = 24
    with pytest.raises(ValueError, match=r"splits\.test\.num_shards is 24, expected at most the 23 samples"):
        index_split(changed(tiny, splits=splits), "test", tmp_path)
    source(index=lambda dataset, split: digits_scenes.index(dataset, split).slice(0, 0))
    with pytest.raises(ValueError, match="split test is empty"):
        index_split(tiny, "test", tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_splits_and_jobs_and_a_missing_index_are_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="unknown split 'val'; expected one of train, minival, test"):
        index_split(tiny, "val", tmp_path)
    with pytest.raises(ValueError, match="job 3 does not exist, expected 0 to 2"):
        write_job(tiny, "train", 3, tmp_path)
    with pytest.raises(ValueError, match=r"source\.parquet: no such file"):
        write_job(tiny, "train", 0, tmp_path)


def test_verify_counts_whole_shards(tiny, train_folder):
    size = sum(path.stat().st_size for path in train_folder.glob("*.tar"))
    expected = {"dataset": "tiny", "split": "train", "samples": 61, "shards": 5, "bytes": size}
    assert verify(tiny, "train", train_folder) == expected


def edit_manifest(folder, change):
    manifest = read_json(folder / "manifest.json")
    change(manifest)
    write_json(folder / "manifest.json", manifest)


def edit_table(folder, name, column, row, value):
    """Change one cell of a table and sign it in the manifest, as somebody would who means well."""
    path = folder / f"{name}.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    position = table.column_names.index(column)
    pq.write_table(table.set_column(position, column, pa.array(values, table[column].type)), path)
    edit_manifest(folder, lambda manifest: manifest.update({f"{name}_sha256": sha256_file(path)}))


def rewrite_tar(folder, change):
    """Rewrite the second shard through `change(info, payload) -> payload or None`, and sign it in the manifest."""
    path, members = folder / "tiny-train-000001.tar", []
    with tarfile.open(path) as tar:
        for info in tar:
            payload = change(info, tar.extractfile(info).read())
            if payload is not None:
                info.size = len(payload)
                members.append((info, payload))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, payload in members:
            tar.addfile(info, io.BytesIO(payload))
    signature = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    edit_manifest(folder, lambda manifest: manifest["shards"][1].update(signature))


def renamed(old, new):
    def change(info, payload):
        info.name = new if info.name == old else info.name
        return payload

    return lambda folder: rewrite_tar(folder, change)


def linked(folder):
    def change(info, payload):
        if info.name == "00000015.png":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            return b""
        return payload

    rewrite_tar(folder, change)


def dropped(folder):
    rewrite_tar(folder, lambda info, payload: None if info.name == "00000023.png" else payload)


def relabelled(folder):
    rewrite_tar(folder, lambda info, payload: b"12" if info.name == "00000015.cls" else payload)


def flip_last_byte_of_payload(folder):
    path = folder / "tiny-train-000001.tar"
    content = bytearray(path.read_bytes())
    content[1030] ^= 1
    path.write_bytes(content)


def cut(folder):
    path = folder / "tiny-train-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])


CORRUPTIONS = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: no such file"),
    "manifest no JSON": (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json: not JSON"),
    "manifest without shards": (lambda f: edit_manifest(f, lambda m: m.pop("shards")), "missing key 'shards'"),
    "manifest that points elsewhere": (
        lambda f: edit_manifest(f, lambda m: m["shards"][0].update(name="../other.tar")),
        r"manifest\.json: shards\.0\.name: got '\.\./other\.tar'",
    ),
    "other dataset": (lambda f: edit_manifest(f, lambda m: m.update(dataset="other")), "dataset: got 'other'"),
    "other split": (lambda f: edit_manifest(f, lambda m: m.update(split="test")), "split: got 'test'"),
    "other classes": (lambda f: edit_manifest(f, lambda m: m["classes"].pop("3")), r"manifest\.json: classes"),
    "other count of a class": (lambda f: edit_manifest(f, lambda m: m["classes"].update({"3": 0})), "images per class"),
    "other count": (lambda f: edit_manifest(f, lambda m: m.update(samples=60)), "samples: got 60, expected 61"),
    "other shard count": (
        lambda f: edit_manifest(f, lambda m: m["shards"][1].update(samples=11)),
        r"samples of tiny-train-000001\.tar: got 11, expected 12",
    ),
    "shard left out": (lambda f: edit_manifest(f, lambda m: m["shards"].pop()), r"manifest\.json: shards"),
    "no quarantine": (lambda f: (f / "quarantine.csv").unlink(), r"quarantine\.csv: no such file"),
    "image in quarantine that is there": (
        lambda f: (f / "quarantine.csv").write_text("path,reason,key\na,b,00000003\n"),
        r"manifest\.json: quarantine_share: got 0\.0",
    ),
    "tar missing": (lambda f: (f / "tiny-train-000002.tar").unlink(), r"000002\.tar: no such file"),
    "tar too many": (lambda f: (f / "tiny-train-000005.tar").touch(), r"000005\.tar: not a shard"),
    "tar cut": (cut, r"000001\.tar: bytes: got"),
    "tar altered": (flip_last_byte_of_payload, r"000001\.tar: sha256"),
    "no index": (lambda f: (f / "index.parquet").unlink(), r"index\.parquet: no such file"),
    "index altered": (lambda f: (f / "index.parquet").write_bytes(b"PAR1"), r"index\.parquet: sha256"),
    "source altered": (lambda f: (f / "source.parquet").write_bytes(b"PAR1"), r"source\.parquet: sha256"),
    "index key": (lambda f: edit_table(f, "index", "key", 4, "77"), "key of row 4: got '77', expected '00000004'"),
    "index label": (lambda f: edit_table(f, "index", "label", 4, 77), "label of row 4: got 77"),
    "index offset": (lambda f: edit_table(f, "index", "offset", 14, 5), "offset of key 00000014, as the index has it"),
    "index size": (lambda f: edit_table(f, "index", "size", 14, 5), "size of key 00000014, as the index has it: got 5"),
    "index shard": (
        lambda f: edit_table(f, "index", "shard", 0, 1),
        r"index\.parquet: shard of row 0: got 1, expected 0",
    ),
    "key in the tar": (
        renamed("00000015.png", "00000099.png"),
        r"000001\.tar: key of the image of 00000015: got '0+99'",
    ),
    "path in the tar": (renamed("00000015.png", "../00000015.png"), r"member '\.\./00000015\.png' is not allowed"),
    "dotted key in the tar": (renamed("00000015.png", "00000.015.png"), r"member '00000\.015\.png' is not allowed"),
    "link in the tar": (linked, r"000001\.tar: member '00000015\.png' is not allowed"),
    "member missing in the tar": (dropped, r"000001\.tar: members: got 23, expected 24"),
    "label in the tar": (relabelled, r"000001\.tar: label of key 00000015: got '12'"),
}


@pytest.mark.parametrize(("corrupt", "message"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_verify_names_the_first_thing_that_is_wrong(tiny, train_folder, corrupt, message):
    corrupt(train_folder)
    with pytest.raises(ValueError, match=message) as error:
        verify(tiny, "train", train_folder)
    assert "\n" not in str(error.value)


def test_a_hint_says_when_shards_are_far_from_256_mib(tiny, tmp_path):
    dataset = changed(tiny, source="folder", scenes=None)
    assert shards_hint(dataset, "train", tmp_path) is None
    for size, hint in ((10 << 20, None), (100 << 20, None), (3 << 30, "num_shards: 60"), (1 << 20, "num_shards: 1 ")):
        pq.write_table(pa.table({"size": [size] * 5}), tmp_path / "source.parquet")
        found = shards_hint(dataset, "train", tmp_path)
        assert (hint or "num_shards: 1 ") in found if hint or size < 64 << 20 else found is None
    assert shards_hint(tiny, "train", tmp_path) is None
