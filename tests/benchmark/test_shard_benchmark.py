import json
import tarfile

import pytest

from noah.benchmark.photos import make_photos, photo_dataset
from noah.benchmark.shard import (
    WRITES,
    copy_arms,
    job_arms,
    pair_arms,
    reencode_arms,
    run,
    shrink_all,
    write_tasks,
)
from noah.data.shards import write_manifest

IMAGES = 6


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path, IMAGES)


def members(path):
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def test_photos_are_different_and_the_same_every_time(photos, tmp_path):
    again = make_photos(tmp_path / "again", IMAGES)
    contents = [path.read_bytes() for path in photos]
    assert contents == [path.read_bytes() for path in again]
    assert len(set(contents)) == IMAGES


def test_all_ways_of_copying_write_the_same_members(photos, tmp_path):
    assert all(arm() == IMAGES for arm in copy_arms(tmp_path, photos).values())
    ours = members(tmp_path / "noah.tar")
    assert len(ours) == 2 * IMAGES
    assert ours == members(tmp_path / "tar.tar") == members(tmp_path / "webdataset-0.tar")
    assert (tmp_path / "cat.tar").read_bytes() == b"".join(path.read_bytes() for path in photos)


def test_the_job_encodes_what_decoding_and_encoding_alone_give(photos, tmp_path):
    dataset = photo_dataset(tmp_path, "small", num_shards=2, short_side=64)
    assert all(arm() == IMAGES for arm in reencode_arms(dataset, photos).values())
    written = [content for path in (tmp_path / "small-jobs").glob("*.tar") for content in members(path).values()]
    assert set(shrink_all(dataset, photos)) == {content for content in written if len(content) > 1}


def test_two_processes_write_what_one_writes(photos, tmp_path):
    def written(folder, pattern):
        return {path.name: path.read_bytes() for path in folder.glob(pattern)}

    dataset = photo_dataset(tmp_path, "full", num_shards=2)
    for arms, images, folder, pattern in (
        (pair_arms(write_tasks(tmp_path, photos)), WRITES * IMAGES, tmp_path, "half*.tar"),
        (job_arms(dataset, IMAGES), IMAGES, tmp_path / "full-jobs", "*.tar"),
    ):
        assert arms["one process"]() == images
        alone = written(folder, pattern)
        assert len(alone) == 2
        assert arms["two processes"]() == images
        assert written(folder, pattern) == alone
    write_manifest(dataset, "train", tmp_path / "full-jobs")


def test_the_benchmark_runs_and_reports_every_arm(tmp_path):
    table = run(tmp_path, images=4, rounds=1)
    works = json.loads((tmp_path / "shard.json").read_text())["works"]
    assert len(works) == 6
    assert all(f"| {work} | {arm} |" in table for work, arms in works.items() for arm in arms)
    assert (tmp_path / "shard.md").is_file()
