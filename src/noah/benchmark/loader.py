"""How fast batches come: against ImageFolder and webdataset with Pillow, what augmentation costs, and how the order of
an epoch reads its shards."""

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
import webdataset
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from noah.benchmark.interleaved import markdown, write
from noah.benchmark.photos import make_photos, make_shards, photo_dataset
from noah.benchmark.roof import check_device
from noah.benchmark.throughput import Arm, compare, write_report
from noah.config import Dataset, Recipe, Run
from noah.data.images import decode_tensor
from noah.data.loader import train_loader
from noah.data.reader import Shards, epoch_order
from noah.data.transforms import normalize, train_transform

BATCH = 64
SHORT_SIDE_PX = 256
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


def run(out: Path, images: int = 2048, rounds: int = 5, workers: int = 2, threads: int = 1, device: str = "cpu") -> str:
    """Measure everything, write {out}/loader.json, loader.md, reads.json and reads.md, and return the tables.

    Args:
        images: A multiple of BATCH, so that every loader goes through the same number.
        device: Where batches go: to a GPU they are copied from pinned memory, and normalised there.

    Raises:
        ValueError: Another number of images, or a device that is not here.
    """
    check_device(device)
    if images % BATCH:
        raise ValueError(f"images is {images}, expected a multiple of {BATCH}")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_photos(folder, images)
        full = photo_dataset(folder, "full")
        small = photo_dataset(folder, "small", short_side=SHORT_SIDE_PX)
        shards = {dataset.name: Shards(make_shards(dataset)) for dataset in (full, small)}
        epochs, parts = loader_arms(full, small, shards, workers, device), recipe_arms(full, shards["full"])
        works = {
            f"RandomResizedCrop 224 and flip, {workers} workers": compare(epochs, rounds),
            "parts of DeiT's recipe, one process": compare(parts, rounds),
        }
    patterns = {name: read_pattern(*order) for name, order in orders().items()}
    table = [["order", *next(iter(patterns.values()))]]
    table += [[name, *(f"{value:,.0f}" for value in pattern.values())] for name, pattern in patterns.items()]
    write(out, "reads", "How an epoch reads 512 tars of 256 images, 32 tars in memory", patterns, table)
    settings = {"images": images, "batch": BATCH, "workers": workers, "rounds": rounds, "interpolation": "bilinear"}
    settings["device"] = device
    report = write_report(out, "loader", "Loading", works, settings)
    return "\n\n".join((report, "\n".join(markdown(table))))


def loader_arms(
    full: Dataset, small: Dataset, shards: dict[str, Shards], workers: int, device: str = "cpu"
) -> dict[str, Arm]:
    """One epoch each, its workers' start included; `noah` yields uint8, the others float32, normalised already."""
    steps = [transforms.RandomResizedCrop(full.image_size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    pillow = transforms.Compose([*steps, transforms.Normalize(full.mean, full.std)])
    images = ImageFolder(full.root_path / "photos", pillow)
    tars = [str(shards["full"].folder / entry["name"]) for entry in shards["full"].manifest["shards"]]
    samples = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(1000).decode("pil")
    tuples = samples.to_tuple("jpg", "cls").map_tuple(pillow, int)
    options = {"batch_size": BATCH, "num_workers": workers}

    def ours(dataset: Dataset) -> Arm:
        epochs = count()
        options = {"workers": workers, "pin_memory": device == "cuda"}
        return lambda: _fed(train_loader(shards[dataset.name], _run(dataset), next(epochs), **options), dataset, device)

    return {
        "ImageFolder, Pillow, float": lambda: _exhaust(DataLoader(images, shuffle=True, drop_last=True, **options)),
        "webdataset, Pillow, float": lambda: _exhaust(DataLoader(tuples, **options)),
        "noah": ours(full),
        f"noah, shards of {SHORT_SIDE_PX} px": ours(small),
    }


def recipe_arms(dataset: Dataset, shards: Shards) -> dict[str, Arm]:
    """What each part of DeiT's augmentation adds to decoding, cropping and flipping; parts on batches run alone."""
    data = [shards.read(i) for i in range(BATCH)]
    batch = torch.stack([train_transform(_recipe(), dataset)(decode_tensor(one, "")) for one in data])
    floats, labels = normalize(batch, _recipe(), dataset), torch.arange(len(batch)) % dataset.num_classes
    erase = RandomErasing(0.25, mode="pixel", device="cpu")
    mix = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=dataset.num_classes)

    def images(augment: Callable) -> int:
        for one in data:
            augment(decode_tensor(one, ""))
        return len(data)

    def batches(part: Callable) -> int:
        part()
        return len(batch)

    return {
        "decode, crop, flip": partial(images, train_transform(_recipe(), dataset)),
        "decode, crop, flip, RandAugment": partial(images, train_transform(_recipe(RAND_AUGMENT), dataset)),
        "normalise, on batches": partial(batches, lambda: normalize(batch, _recipe(), dataset)),
        "random erasing, on batches": partial(batches, lambda: erase(floats.clone())),
        "mixup and cutmix, on batches": partial(batches, lambda: mix(floats.clone(), labels)),
    }


def orders(num_shards: int = 512, samples: int = 256, window: int = 16) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """order -> (tar of each read, place of each read in its tar), an epoch's order against a full shuffle."""
    shard_of, place = np.divmod(np.arange(num_shards * samples), samples)
    windowed = epoch_order(shard_of, 0, 0, window)
    shuffled = np.random.default_rng(0).permutation(len(shard_of))
    return {
        f"windows of {window} shards": (shard_of[windowed], place[windowed]),
        "random order": (shard_of[shuffled], place[shuffled]),
    }


def read_pattern(shards: np.ndarray, places: np.ndarray, cached: int = 32) -> dict[str, float]:
    """What reading samples in this order asks of a disk or network file system.

    Args:
        shards: int64 (S,), tar of each read.
        places: int64 (S,), number of the sample in its tar.
        cached: Tars that fit in memory, the least recently used one making room.

    Returns:
        reads; seeks, those that do not start where the one before ended; tars_per_1000_reads; loads, how often a tar
        is brought into memory where whole tars are; fetched, the bytes of these loads over those of the data set.
    """
    held: OrderedDict[int, None] = OrderedDict()
    loads = 0
    for shard in shards.tolist():
        if shard not in held:
            loads += 1
            if len(held) == cached:
                held.popitem(last=False)
        held[shard] = None
        held.move_to_end(shard)
    runs = [len(np.unique(shards[first : first + 1000])) for first in range(0, len(shards), 1000)]
    follows = (np.diff(shards) == 0) & (np.diff(places) == 1)
    return {
        "reads": len(shards),
        "tars_per_1000_reads": float(np.mean(runs)),
        "loads": loads,
        "fetched": loads / len(np.unique(shards)),
        "seeks": len(shards) - int(follows.sum()),
    }


def _recipe(rand_augment: str | None = None) -> Recipe:
    return Recipe(epochs=1, batch=BATCH, lr=0.1, interpolation="bilinear", rand_augment=rand_augment)


def _run(dataset: Dataset) -> Run:
    arm = {"arm": "gap", "head": {"name": "gap"}, "backbone": {"name": "resnet18"}}
    return Run(dataset=dataset, recipe_name="benchmark", recipe=_recipe(), seed=0, **arm)


def _fed(batches: DataLoader, dataset: Dataset, device: str) -> int:
    """On a CPU the batches alone; on a GPU until it has normalised the last."""
    if device == "cpu":
        return _exhaust(batches)
    recipe, number = _recipe(), 0
    for images, *_ in batches:
        number += len(normalize(images.to(device, non_blocking=True), recipe, dataset))
    torch.cuda.synchronize()
    return number


def _exhaust(batches: DataLoader) -> int:
    return sum(len(images) for images, *_ in batches)
