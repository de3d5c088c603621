"""Shards: what jobs note, the manifest, the index, the tars, also with checksums that a hostile server made to fit."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
from robustness.damage import of_bytes, of_json, of_table, of_tar
from robustness.targets import OUT, RUN, Target, copied, each

from noah.config import load_dataset, load_study
from noah.config.dataset import Reencode
from noah.data.images import decode, decode_tensor, image_format, prepare
from noah.data.loader import eval_loader
from noah.data.reader import Shards, epoch_order
from noah.data.shards import shards_hint, write_job, write_manifest
from noah.data.verify import verify
from noah.evaluate.metrics import score
from noah.files import read_json, sha256_file, write_json

TRAIN, SEVERAL, TEST = Path("shards/tiny/train"), Path("shards/several/train"), Path("shards/tiny/test")
JSON_WORDS = (
    b"[" * 100_000,
    b'{"a":' * 3000,
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-",
    b'"\\ud800"',
    b"9" * 5000,
    b"null",
    b"//",
)


def json_damages(good: bytes):
    return [of_bytes(good, *JSON_WORDS), of_json(json.loads(good))]


def table_damages(good: bytes):
    return [of_bytes(good, b"PAR1"), of_table(pq.read_table(io.BytesIO(good)))]


def _only_table(good: bytes):
    return table_damages(good)[1:]


def _tar_damages(good: bytes):
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    return [of_bytes(good, b"ustar", b"x" * 512), of_tar(members)]


def read_all(folder: Path) -> None:
    """Every image of a split in the order of an epoch, and as evaluation sees it."""
    shards = Shards(folder)
    shards.check_tars(OUT / "verified.json")
    for i in epoch_order(shards.shard_of, 0, 0):
        decode_tensor(shards.read(int(i)), shards.where(int(i)))
    run = load_study("tiny").runs[0]
    for images, labels, numbers in eval_loader(shards, run.recipe, run.dataset):
        assert len(images) == len(labels) == len(numbers)


def _signed(folder: Path) -> None:
    """The manifest has the sums of what is there, as if whoever changed it had made the manifest too."""
    manifest = read_json(folder / "manifest.json")
    manifest["index_sha256"] = sha256_file(folder / "index.parquet")
    manifest["samples"] = max(1, _rows(folder / "index.parquet"))
    for entry in manifest["shards"]:
        tar = folder / entry["name"]
        entry["sha256"], entry["bytes"] = sha256_file(tar), tar.stat().st_size
    write_json(folder / "manifest.json", manifest)


def _rows(path: Path) -> int:
    return pq.read_metadata(path).num_rows


def _read_signed(folder: Path) -> None:
    (copy,) = copied(folder)
    _signed(copy)
    read_all(copy)


def _verify_signed() -> None:
    (copy,) = copied(TRAIN)
    _signed(copy)
    each(lambda: verify(load_dataset("tiny"), "train", copy), lambda: read_all(copy))


def _manifest() -> None:
    (copy,) = copied(TRAIN)
    each(lambda: read_all(copy), lambda: verify(load_dataset("tiny"), "train", copy))


def _score() -> None:
    (run,) = copied(RUN)
    score(run, TEST / "manifest.json")


def _shard_again() -> None:
    """All that is made from a source index."""
    (copy,) = copied(TRAIN)
    dataset = load_dataset("tiny").model_copy(update={"allow_bad": 0.9})
    shards_hint(dataset, "train", copy)
    for job in range(dataset.num_jobs("train")):
        write_job(dataset, "train", job, copy)
    write_manifest(dataset, "train", copy)
    verify(dataset, "train", copy)


def _image() -> None:
    data, where = Path("images/image").read_bytes(), "images/image"
    each(
        lambda: decode(data, where),
        lambda: decode_tensor(data, where),
        lambda: image_format(data, where),
        lambda: prepare(data, where),
        lambda: prepare(data, where, Reencode(short_side=8)),
    )


def _image_target(kind: str) -> Target:
    def damages(_good: bytes):
        return [of_bytes(path.read_bytes()) for path in sorted(Path("images").glob(f"*.{kind}"))]

    return Target("images/image", damages, _image)


TARGETS = {
    "manifest.json": Target(f"{TRAIN}/manifest.json", json_damages, _manifest),
    "manifest.json, scored with": Target(f"{TEST}/manifest.json", json_damages, _score),
    "index.parquet": Target(f"{TRAIN}/index.parquet", table_damages, _manifest),
    "index.parquet, signed": Target(f"{TRAIN}/index.parquet", _only_table, lambda: _read_signed(TRAIN)),
    "multi-label index.parquet, signed": Target(f"{SEVERAL}/index.parquet", _only_table, lambda: _read_signed(SEVERAL)),
    "tar": Target(f"{TRAIN}/tiny-train-000001.tar", _tar_damages, _manifest),
    "tar, signed": Target(f"{TRAIN}/tiny-train-000001.tar", _tar_damages, _verify_signed),
    "source.parquet": Target(f"{TRAIN}/source.parquet", table_damages, _shard_again, 0.5),
    "job.json": Target(f"{TRAIN}/jobs/00000.json", json_damages, _shard_again, 0.5),
    "job.parquet": Target(f"{TRAIN}/jobs/00000.parquet", table_damages, _shard_again, 0.5),
    "job.bad.csv": Target(
        f"{TRAIN}/jobs/00000.bad.csv", lambda good: [of_bytes(good, b'"', b",,,\n")], _shard_again, 0.5
    ),
    "parts.json": Target(f"{TRAIN}/jobs/00001.parts/tiny-train-000002.tar.json", json_damages, _shard_again, 0.5),
    **{f"image.{kind}": _image_target(kind) for kind in ("jpg", "png", "webp", "gif", "bmp", "tiff")},
}
