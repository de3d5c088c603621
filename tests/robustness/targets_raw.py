"""Raw data as it is downloaded or as users bring it: annotations, tables, archives, idx files."""

import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

from robustness.damage import Damage, of_bytes, of_tar, of_zip
from robustness.targets import OUT, Target
from robustness.targets_data import JSON_WORDS, json_damages, table_damages

from noah.config import load_dataset
from noah.data.raw import check_raw, decompress
from noah.data.shards import index_split, write_job, write_manifest
from noah.data.verify import verify

RAW = Path("raw")


def build(name: str, split: str = "train") -> None:
    """Shards of a split, from its raw data to its verified manifest."""
    shutil.rmtree(OUT, ignore_errors=True)
    dataset, out = load_dataset(name), OUT / name
    index_split(dataset, split, out)
    for job in range(dataset.num_jobs(split)):
        write_job(dataset, split, job, out)
    write_manifest(dataset, split, out)
    verify(dataset, split, out)


def _raw(path: str, damages, dataset: str, split: str = "train", share: float = 0.5) -> Target:
    return Target(f"{RAW}/{path}", damages, lambda: build(dataset, split), share)


def _tar_members(good: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar if info.isreg()]


def _tar(good: bytes) -> list[Damage]:
    return [of_bytes(good, b"ustar"), of_tar(_tar_members(good))]


def _gzipped_tar(good: bytes) -> list[Damage]:
    """Damaged inside the gzip, and the gzip itself."""
    inner = of_tar(_tar_members(good))
    return [of_bytes(good), Damage(inner.changes, lambda changes: gzip.compress(inner.apply(changes), 1))]


def _devkit(good: bytes) -> list[Damage]:
    """Its meta.mat, a file of MATLAB."""
    members = _tar_members(good)
    place = next(number for number, (name, _) in enumerate(members) if name.endswith("meta.mat"))
    name, content = members[place]
    meta, rest = of_bytes(content), [*members[:place], *members[place + 1 :]]

    def apply(changes) -> bytes:
        return gzip.compress(of_tar([(name, meta.apply(changes)), *rest]).apply(([], [])), 1)

    return [*_gzipped_tar(good), Damage(meta.changes, apply)]


def _zip(good: bytes) -> list[Damage]:
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    return [of_bytes(good, b"PK\1\2", b"PK\5\6"), of_zip(members)]


def _idx(good: bytes) -> list[Damage]:
    return [of_bytes(good, b"\0\0\x08\3"), of_bytes(good[:16])]


def _table_csv(good: bytes) -> list[Damage]:
    return [of_bytes(good, b'"', b",", b"\n", b"../x", b"path", b";", b"\xef\xbb\xbf", b"\0")]


def _decompress() -> None:
    OUT.mkdir(exist_ok=True)
    shutil.copy(RAW / "plain.gz", OUT / "plain.gz")
    (OUT / "plain").unlink(missing_ok=True)
    decompress(OUT / "plain.gz")


def _remembered() -> None:
    OUT.mkdir(exist_ok=True)
    shutil.copy(RAW / "raw.json", OUT / "raw.json")
    dataset = load_dataset("idx")
    check_raw(dataset, *dataset.files, remembered=OUT / "raw.json")


TARGETS = {
    "COCO json": _raw("coco/train.json", lambda good: [of_bytes(good, *JSON_WORDS), *json_damages(good)], "coco"),
    "iNaturalist json": _raw("inat/train.json", json_damages, "inat"),
    "table.csv": _raw("table/table.csv", _table_csv, "table-csv"),
    "table.parquet": _raw("table/table.parquet", table_damages, "table-parquet"),
    "multi-label table.csv": _raw("table/labels.csv", _table_csv, "table-labels"),
    "folder in a tar": _raw("folder/train.tar", _tar, "folder-tar"),
    "folder in a zip": _raw("folder/train.zip", _zip, "folder-zip"),
    "webdataset tar": _raw("webdataset/train-0.tar", _tar, "webdataset"),
    "idx images": _raw("idx/images", _idx, "idx"),
    "idx labels": _raw("idx/labels", _idx, "idx"),
    "cifar tar": _raw("cifar/cifar-10-binary.tar", _tar, "cifar"),
    "imagenet train tar": _raw("imagenet/train.tar", _tar, "imagenet"),
    "imagenet devkit": _raw("imagenet/devkit.tar.gz", _devkit, "imagenet", "test"),
    "gzip": Target(f"{RAW}/plain.gz", lambda good: [of_bytes(good)], _decompress),
    "raw.json": Target(f"{RAW}/raw.json", json_damages, _remembered),
}
