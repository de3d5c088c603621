"""A small project in which everything that noah reads is there and right: made once, damaged piece by piece."""

import csv
import gzip
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from robustness.targets_models import ALONE, STATE, legacy, official_model, official_names, small_state
from safetensors.torch import save_file
from scipy.io import savemat
from sklearn.datasets import load_digits
from tests_support import REPOSITORY, add_tiny_study

from noah.config import load_dataset, load_study
from noah.data.layout import SOURCE, identity, job_file, shard_bounds
from noah.data.shard_job import Parts, write_shard
from noah.data.shards import index_split, write_job, write_manifest
from noah.data.sources import SOURCES
from noah.engine.lock import lock
from noah.engine.train import Machine, train
from noah.evaluate.metrics import score
from noah.files import read_json, sha256_file, write_json
from noah.report.collect import collect
from noah.report.comparison import compare

IMAGES_PER_CLASS = 4
CLASSES = ("cat", "dog", "emu")
DIGITS = load_digits().images


def image(number: int, kind: str = "JPEG", **options) -> bytes:
    digit = Image.fromarray((DIGITS[number] * 15).astype(np.uint8)).resize((24, 24)).convert("RGB")
    buffer = io.BytesIO()
    digit.save(buffer, kind, **options)
    return buffer.getvalue()


def make_world(folder: Path) -> None:
    """Fill the folder, which is the current one."""
    shutil.copytree(REPOSITORY / "config", folder / "config")
    add_tiny_study(folder / "config")
    (folder / "data").symlink_to(REPOSITORY / "data")
    _shards(folder)
    _results()
    _images(folder / "images")
    _states()
    _weights(folder / "weights")
    _raw(folder / "raw", folder / "config/datasets")


def build(name: str, split: str, out: Path) -> None:
    dataset = load_dataset(name)
    index_split(dataset, split, out)
    for job in range(dataset.num_jobs(split)):
        write_job(dataset, split, job, out)
    write_manifest(dataset, split, out)


def _shards(folder: Path) -> None:
    """Of the tiny dataset and of a multi-label one; job 1 of the training split looks interrupted."""
    path = folder / "config/datasets/tiny.yaml"
    tiny = yaml.safe_load(path.read_text())
    several = {**tiny, "name": "several", "multi_label": True, "scenes": {**tiny["scenes"], "digits": [1, 3]}}
    path.with_name("several.yaml").write_text(yaml.safe_dump(several))
    study = yaml.safe_load((folder / "config/studies/tiny.yaml").read_text())
    (folder / "config/studies/several.yaml").write_text(yaml.safe_dump({**study, "datasets": ["several"]}))
    path.with_name("named.yaml").write_text(yaml.safe_dump({**tiny, "name": "named", "classes": "names.txt"}))
    path.with_name("names.txt").write_text("".join(f"{name}\n" for name in tiny["classes"]))
    for name in ("tiny", "several"):
        for split in ("train", "minival", "test"):
            build(name, split, folder / "shards" / name / split)
    dataset, out = load_dataset("tiny"), folder / "shards/tiny/train"
    source, known = pq.read_table(out / SOURCE), identity(dataset, "train", sha256_file(out / SOURCE))
    parts = Parts(job_file(out, 1, "parts"), known)
    bounds, read = shard_bounds(dataset, "train", source), SOURCES[dataset.source].open_source(dataset, "train")
    rows = source.slice(bounds[2], bounds[3] - bounds[2]).to_pylist()
    name = dataset.shard_name("train", 2)
    parts.keep(write_shard(dataset, 2, parts.folder / name, rows, read))


def _results() -> None:
    """The tiny study, trained, scored, collected and compared, and one run on multi-label data."""
    study = load_study("tiny")
    for run in study.runs:
        out = study.results / "runs" / run.key
        train(run, "shards", out, Machine("cpu", state=Path("state")))
        score(out, Path("shards/tiny/test/manifest.json"))
    cost = {"parameters": 1000, "head_parameters": 10, "macs": 10**6, "head_macs": 100, "latency_ms_p50": 2.0}
    cost |= {"latency_ms_p95": 2.5, "images_per_s": 400.0, "train_images_per_s": 100.0, "peak_memory_mib": 50.0}
    conditions = {"device": "cpu", "dtype": "float32", "threads": 1, "torch": "2.14.1", "image_size": 32, "batch": 64}
    conditions |= {"rounds": 20, "channels_last": False, "arms": {arm: cost for arm in study.spec.arms}}
    backbone = study.runs[0].backbone.slug
    conditions |= {"dataset": "tiny", "backbone": backbone, "config_sha256": study.cost_hash("tiny", backbone)}
    write_json(study.results / "cost" / f"tiny-{backbone}.json", conditions)
    collect(study)
    compare(study)
    run, out = load_study("several").runs[0], Path("results/several-run")
    train(run, "shards", out, Machine("cpu", state=Path("state")))


def _images(folder: Path) -> None:
    """Of every format, plain and less plain."""
    folder.mkdir()
    (folder / "image").write_bytes(image(0))
    for name, kind, options in (
        ("plain.jpg", "JPEG", {}),
        ("progressive.jpg", "JPEG", {"progressive": True, "quality": 50}),
        ("plain.png", "PNG", {}),
        ("plain.webp", "WEBP", {"quality": 50}),
        ("lossless.webp", "WEBP", {"lossless": True}),
        ("plain.gif", "GIF", {}),
        ("plain.bmp", "BMP", {}),
        ("plain.tiff", "TIFF", {}),
        ("packed.tiff", "TIFF", {"compression": "tiff_lzw"}),
    ):
        (folder / name).write_bytes(image(1, kind, **options))
    Image.open(folder / "plain.png").quantize(8).save(folder / "palette.png")
    Image.open(folder / "plain.png").convert("CMYK").save(folder / "cmyk.jpg")


def _states() -> None:
    """Two checkpoints, a lock and a note of failure."""
    with lock(STATE) as held:
        for step in (1, 2):
            state = small_state()
            state.step = step
            state.save(STATE, ALONE, held)
        kept = read_json(STATE / "lock")
    write_json(STATE / "lock", {**kept, "started": 1})  # of a process that is gone
    failed = {"error": "it broke", "kind": "RuntimeError", "step": 3, "resumed_at_step": 1, "saved_at_step": 2}
    write_json(STATE / "failure.json", {**failed, "time": "2026-11-22T00:00:00+00:00", "commit": "", "code_sha256": ""})


def _weights(folder: Path) -> None:
    folder.mkdir()
    model = official_model()
    named = official_names(model)
    torch.save({"model": named, "epoch": 3}, folder / "official.pth")
    (folder / "legacy.pth").write_bytes(legacy(named))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "backbone.safetensors"
    )


def _raw(root: Path, configs: Path) -> None:
    """What the sources read, and a dataset for each."""
    train = {
        f"{name}/{number}.jpg": image(3 * number + place) for place, name in enumerate(CLASSES) for number in range(4)
    }
    files = {
        **{f"coco/images/{number}.jpg": image(number) for number in range(12)},
        **{f"inat/images/{number}.jpg": image(number) for number in range(12)},
        **{f"table/images/{number}.jpg": image(number) for number in range(12)},
        "coco/train.json": _annotations((1, 3, 10)),
        "inat/train.json": _annotations((0, 1, 2)),
        "folder/train.tar": _tar(train),
        "folder/train.zip": _zip(train),
        "webdataset/train-0.tar": _tar(_samples()),
        "idx/images": b"\0\0\x08\3" + np.array([12, 8, 8], ">u4").tobytes() + DIGITS[:12].astype(np.uint8).tobytes(),
        "idx/labels": b"\0\0\x08\1" + np.array([12], ">u4").tobytes() + bytes(n % 3 for n in range(12)),
        "cifar/cifar-10-binary.tar": _tar(_cifar(load_dataset("cifar10").classes)),
        "imagenet/train.tar": _tar(
            {f"n0000000{n}.tar": _tar({f"{n}_{i}.JPEG": image(i) for i in range(3)}) for n in (1, 2, 3)}
        ),
        **{f"imagenet/val/ILSVRC2012_val_{number:08d}.JPEG": image(number) for number in (1, 2, 3)},
        "imagenet/devkit.tar.gz": gzip.compress(_tar(_devkit())),
        "plain.gz": gzip.compress(b"plain text " * 1000),
        "raw.json": json.dumps({"/elsewhere/x": ["0" * 64, 1, 2]}).encode(),
        **_tables(),
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    common = {"classes": list(CLASSES), "image_size": 24, "mean": [0.5] * 3, "std": [0.2] * 3, "allow_bad": 0.9}
    wnids = [f"n0000000{number}" for number in (1, 2, 3)]
    idx = {"images": "images", "labels": "labels"}
    for name, source, raw, fields in (
        ("coco", "coco", {"annotations": "train.json", "images": "images"}, {"multi_label": True}),
        ("inat", "inaturalist", {"annotations": "train.json", "images": "images"}, {}),
        ("table-csv", "table", {"table": "table.csv", "images": "images"}, {"root": "raw/table"}),
        ("table-parquet", "table", {"table": "table.parquet", "images": "images"}, {"root": "raw/table"}),
        (
            "table-labels",
            "table",
            {"table": "labels.csv", "images": "images"},
            {"root": "raw/table", "multi_label": True},
        ),
        ("folder-tar", "folder", {"images": "train.tar"}, {"root": "raw/folder"}),
        ("folder-zip", "folder", {"images": "train.zip"}, {"root": "raw/folder"}),
        ("webdataset", "webdataset", {"tars": "train-0.tar", "label": "json:label"}, {}),
        ("idx", "fashion_mnist", idx, {"files": {name: {"bytes": len(files[f"idx/{name}"])} for name in idx}}),
        ("cifar", "cifar", {"archive": "cifar-10-binary.tar"}, {"classes": list(load_dataset("cifar10").classes)}),
        ("imagenet", "imagenet", {"images": "train.tar"}, {"classes": wnids}),
    ):
        test = {"images": "val", "devkit": "devkit.tar.gz"} if name == "imagenet" else raw
        splits = {split: {"num_shards": 1, "raw": of} for split, of in (("train", raw), ("test", test))}
        data = {"name": name, "source": source, "root": f"raw/{name}", **common, "splits": splits, **fields}
        (configs / f"{name}.yaml").write_text(yaml.safe_dump(data))


def _annotations(ids: tuple[int, ...]) -> bytes:
    images = [{"id": number, "file_name": f"images/{number}.jpg", "license": 1} for number in range(12)]
    categories = [{"id": number, "name": name} for number, name in zip(ids, CLASSES, strict=True)]
    found = [{"id": n, "image_id": n, "category_id": ids[n % 3], "segmentation": [[1.0, 2.0]]} for n in range(12)]
    return json.dumps(
        {"info": {"year": 2026}, "images": images, "categories": categories, "annotations": found}
    ).encode()


def _samples() -> dict[str, bytes]:
    samples = {}
    for number in range(9):
        samples[f"{number}.jpg"] = image(number)
        samples[f"{number}.json"] = json.dumps({"label": CLASSES[number % 3]}).encode()
    return samples


def _cifar(classes) -> dict[str, bytes]:
    pixels = np.arange(3072, dtype=np.uint8).tobytes()
    records = b"".join(bytes([number]) + pixels for number in range(10))
    names = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
    members = {name: records[: 2 * 3073] for name in names} | {"data_batch_1.bin": records}
    return {**members, "batches.meta.txt": "\n".join(classes).encode()}


def _devkit() -> dict[str, bytes]:
    synsets = np.empty((3, 1), [(name, object) for name in ("ILSVRC2012_ID", "WNID", "num_children")])
    synsets[:, 0] = [(float(number), f"n0000000{number}", 0.0) for number in (1, 2, 3)]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets}, do_compression=True)
    return {"data/meta.mat": buffer.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": b"3\n1\n2\n"}


def _tables() -> dict[str, bytes]:
    rows = [(f"{number}.jpg", CLASSES[number % 3], "test" if number > 8 else "train") for number in range(12)]
    text = io.StringIO()
    csv.writer(text).writerows([("path", "label", "split"), *rows])
    labels = io.StringIO()
    csv.writer(labels).writerows(
        [("path", "labels", "split"), *((path, f"{one};emu", split) for path, one, split in rows)]
    )
    parquet = io.BytesIO()
    pq.write_table(pa.table(dict(zip(("path", "label", "split"), zip(*rows, strict=True), strict=True))), parquet)
    found = {
        "table.csv": text.getvalue().encode(),
        "labels.csv": labels.getvalue().encode(),
        "table.parquet": parquet.getvalue(),
    }
    return {f"table/{name}": data for name, data in found.items()}


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()
