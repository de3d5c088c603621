"""How fast shards are written: against `cat`, GNU tar and webdataset where bytes are copied, against decoding and
encoding alone where images are made smaller, and two processes against one."""

import os
import subprocess
import tempfile
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms.v2.functional import resize
from webdataset import ShardWriter

from noah.benchmark.photos import make_photos, photo_dataset
from noah.benchmark.throughput import Arm, compare, write_report
from noah.config import Dataset
from noah.data.shards import index_split, write_job
from noah.data.tars import TarWriter

SHORT_SIDE_PX = 256
WRITES = 4
"""How often the writer alone writes each photo."""


def run(out: Path, images: int = 3000, rounds: int = 5, threads: int = 1) -> str:
    """Measure everything, write {out}/shard.json and shard.md, and return the table."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = make_photos(folder, images)
        full = photo_dataset(folder, "full", num_shards=2)
        small = photo_dataset(folder, "small", num_shards=2, short_side=SHORT_SIDE_PX)
        works = {
            "copy": copy_arms(folder, photos),
            f"decode, shrink to {SHORT_SIDE_PX} px, encode": reencode_arms(small, photos),
            f"copy, writer alone, each photo {WRITES} times": pair_arms(write_tasks(folder, photos)),
            "copy, whole jobs": job_arms(full, images),
            "decode, resize, encode alone": pair_arms(shrink_tasks(small, photos)),
            "re-encode, whole jobs": job_arms(small, images),
        }
        found = {work: compare(arms, rounds) for work, arms in works.items()}
        size = sum(path.stat().st_size for path in photos) // images
    settings = {"images": images, "bytes_per_image": size, "rounds": rounds, "cache": "warm"}
    return write_report(out, "shard", "Writing shards", found, settings)


def copy_arms(folder: Path, photos: list[Path]) -> dict[str, Arm]:
    """Each reads the same files and writes one; all but `cat` a tar of labels and images.

    `noah` computes the sha256 of what it writes, too, which the second arm pays for as well. No image is decoded.
    ShardWriter, as it comes, gives every member the time of writing in a PAX header, so that no two tars are equal.
    """
    flat = folder / "flat"
    flat.mkdir(exist_ok=True)
    for label, path in enumerate(photos):
        (flat / f"{path.stem}.cls").write_text(str(label % 2))
        os.link(path, flat / path.name)
    names = [f"{path.stem}.{field}" for path in photos for field in ("cls", "jpg")]
    (folder / "members.txt").write_text("\n".join(names))
    (folder / "images.txt").write_text("\n".join(names[1::2]))

    def shell(command: str) -> int:
        subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=flat, check=True)
        return len(photos)

    return {
        "cat": lambda: shell("xargs -a ../images.txt cat > ../cat.tar"),
        "cat, and its sha256": lambda: shell("xargs -a ../images.txt cat | tee ../cat.tar | sha256sum > ../cat.sha256"),
        "GNU tar": lambda: shell("tar --format=ustar -cf ../tar.tar -T ../members.txt"),
        "webdataset.ShardWriter": lambda: _write_webdataset(folder / "webdataset-%d.tar", photos),
        "webdataset.ShardWriter, one time for all": lambda: _write_webdataset(folder / "same-%d.tar", photos, mtime=0),
        "noah": lambda: write_noah(folder / "noah.tar", photos),
    }


def write_noah(path: Path, photos: list[Path]) -> int:
    """What a shard job does but for decoding."""
    with open(path, "wb") as file:
        tar = TarWriter(file)
        for label, photo in enumerate(photos):
            tar.write(photo.stem, label % 2, "jpg", photo.read_bytes())
        tar.close()
    return len(photos)


def _write_webdataset(pattern: Path, photos: list[Path], **options) -> int:
    with ShardWriter(str(pattern), maxcount=len(photos) + 1, maxsize=1e12, verbose=0, **options) as tar:
        for label, photo in enumerate(photos):
            tar.write({"__key__": photo.stem, "cls": label % 2, "jpg": photo.read_bytes()})
    return len(photos)


def reencode_arms(dataset: Dataset, photos: list[Path]) -> dict[str, Arm]:
    """The work itself on bytes in memory, and the same as jobs of `dataset`."""
    return {
        "decode, resize, encode": lambda: len(shrink_all(dataset, photos)),
        "noah": job_arms(dataset, len(photos))["one process"],
    }


def shrink_all(dataset: Dataset, photos: list[Path]) -> list[bytes]:
    """Every photo as a JPEG of the dataset's short side: nothing but the three calls."""
    small = []
    for path in photos:
        pixels = decode_jpeg(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8))
        height, width = pixels.shape[1:]
        scale = dataset.reencode.short_side / min(height, width)
        shrunk = resize(pixels, [round(height * scale), round(width * scale)], antialias=True)
        small.append(encode_jpeg(shrunk.contiguous(), quality=dataset.reencode.quality).numpy().tobytes())
    return small


def write_tasks(folder: Path, photos: list[Path]) -> list[partial]:
    """The writer alone, for two halves of many photos: it is quick, against the start of a process."""
    return [partial(write_noah, folder / f"half{i}.tar", half) for i, half in enumerate(_halves(photos * WRITES))]


def shrink_tasks(dataset: Dataset, photos: list[Path]) -> list[partial]:
    """What two cores can give at all: nothing but the three calls, on two halves."""
    return [partial(lambda half: len(shrink_all(dataset, half)), half) for half in _halves(photos)]


def _halves(photos: list[Path]) -> list[list[Path]]:
    half = len(photos) // 2
    return [photos[:half], photos[half : 2 * half]]


def pair_arms(tasks: list[partial]) -> dict[str, Arm]:
    """Two tasks in one process, or each in one of its own."""
    images = sum(len(task.args[-1]) for task in tasks)

    def side_by_side() -> int:
        _in_two_processes(tasks)
        return images

    return {"one process": lambda: sum(task() for task in tasks), "two processes": side_by_side}


def job_arms(dataset: Dataset, images: int) -> dict[str, Arm]:
    """All jobs of split train, one after the other or side by side; what an earlier round wrote is removed."""
    folder = dataset.root_path / f"{dataset.name}-jobs"
    if not folder.is_dir():
        index_split(dataset, "train", folder)

    def emptied() -> list[partial]:
        for path in [*folder.glob("*.tar"), *folder.glob("jobs/*")]:
            path.unlink()
        return [partial(write_job, dataset, "train", job, folder) for job in range(dataset.num_jobs("train"))]

    def alone() -> int:
        for job in emptied():
            job()
        return images

    def side_by_side() -> int:
        _in_two_processes(emptied())
        return images

    return {"one process": alone, "two processes": side_by_side}


def _in_two_processes(tasks: list[partial]) -> None:
    processes = [get_context("fork").Process(target=task) for task in tasks]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
