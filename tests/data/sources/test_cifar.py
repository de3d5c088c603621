import gzip
import hashlib
import io
import pickle

import numpy as np
import pytest
from annotated_builder import DIGITS, write_folder, write_tar
from digits_builder import build, changed
from PIL import Image
from tests_support import REPOSITORY

from noah.config import Dataset, load_dataset
from noah.data.sources import cifar
from noah.data.verify import verify

CONFIG = REPOSITORY / "config"
PER_FILE = 20


def pixels(number: int) -> np.ndarray:
    """One of scikit-learn's digits, uint8 (32, 32, 3), its three channels different."""
    digit = np.kron(DIGITS.images[number], np.ones((4, 4))) * 15
    return np.stack([digit, 255 - digit, digit // 2], axis=-1).astype(np.uint8)


def record(labels: tuple[int, ...], number: int) -> bytes:
    return bytes(labels) + pixels(number).transpose(2, 0, 1).tobytes()


def cifar10_members() -> dict[str, bytes]:
    """The binary archive with 20 records a file; the label of digit n is n modulo 10."""
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    members = {
        name: b"".join(record((n % 10,), n) for n in range(PER_FILE * place, PER_FILE * (place + 1)))
        for place, name in enumerate(names)
    }
    classes = load_dataset("cifar10", CONFIG).classes
    members |= {"batches.meta.txt": "\n".join((*classes, "", "")).encode(), "readme.html": b"<html></html>"}
    return {f"cifar-10-batches-bin/{name}": data for name, data in members.items()}


def cifar100_members() -> dict[str, bytes]:
    """Every fine class n once in each file; its coarse class is n modulo 20."""
    records = b"".join(record((n % 20, n), n) for n in range(100))
    fine, coarse = (CONFIG / "datasets" / name for name in ("cifar100.txt", "cifar100-coarse.txt"))
    members = {"train.bin": records, "test.bin": records[: 3074 * 40]}
    members |= {"fine_label_names.txt": fine.read_bytes(), "coarse_label_names.txt": coarse.read_bytes()}
    return {f"cifar-100-binary/{name}": data for name, data in members.items()}


def downloaded(name: str, members: dict[str, bytes], root) -> Dataset:
    """The dataset with its archive as it is downloaded."""
    official = load_dataset(name, CONFIG)
    (archive,) = official.files
    root.mkdir(exist_ok=True)
    write_tar(root / archive, members)
    data = (root / archive).read_bytes()
    files = {archive: {"bytes": len(data), "md5": hashlib.md5(data).hexdigest()}}
    splits = {name: {**split.model_dump(), "samples": None} for name, split in official.splits.items()}
    return changed(official, root=str(root), files=files, splits=splits)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raw"


@pytest.fixture
def cifar10(root) -> Dataset:
    dataset = downloaded("cifar10", cifar10_members(), root)
    cifar.fetch(dataset)
    return dataset


def repacked(root, members) -> Dataset:
    """CIFAR-10 with other members, of which nothing is known beforehand."""
    dataset = changed(downloaded("cifar10", members, root), files={})
    cifar.fetch(dataset)
    return dataset


def content(dataset, split):
    """Name -> label, pixels."""
    read = cifar.open_source(dataset, split)
    found = {}
    for row in cifar.index(dataset, split).to_pylist():
        extension, data = read(row)
        assert extension == "png"
        found[row["name"]] = row["label"], np.asarray(Image.open(io.BytesIO(data)))
    return found


@pytest.mark.parametrize(("split", "first"), [("train", 0), ("test", 5 * PER_FILE)])
def test_every_record_becomes_a_png_of_its_pixels_with_its_label(cifar10, split, first):
    found = content(cifar10, split)
    assert len(found) == (5 * PER_FILE if split == "train" else PER_FILE)
    for place, name in enumerate(sorted(found)):
        label, image = found[name]
        assert label == (first + place) % 10
        assert np.array_equal(image, pixels(first + place))


def test_cifar100_has_fine_labels_with_100_classes_and_coarse_ones_with_20(root):
    fine = downloaded("cifar100", cifar100_members(), root)
    cifar.fetch(fine)
    coarse = changed(fine, classes=tuple((CONFIG / "datasets" / "cifar100-coarse.txt").read_text().split()))
    for dataset, classes in ((fine, 100), (coarse, 20)):
        found = content(dataset, "train")
        assert [found[name][0] for name in sorted(found)] == [number % classes for number in range(100)]
        assert all(np.array_equal(found[name][1], pixels(n)) for n, name in enumerate(sorted(found)))


def test_the_archive_becomes_verified_shards_also_with_a_minival_cut_from_train(cifar10, tmp_path):
    splits = {name: split.model_dump() for name, split in cifar10.splits.items()}
    splits["minival"] = {"num_shards": 1}
    dataset = changed(cifar10, splits=splits, minival_share=0.2)
    samples = {split: verify(dataset, split, build(dataset, split, tmp_path / split))["samples"] for split in splits}
    assert samples["train"] + samples["minival"] == 5 * PER_FILE
    assert 5 < samples["minival"] < 40
    assert samples["test"] == PER_FILE


def test_an_unpacked_folder_gives_the_same_images_in_the_same_order(cifar10, root):
    write_folder(root, cifar10_members())
    splits = {
        name: {"num_shards": 1, "raw": {"archive": "cifar-10-batches-bin"}} for name, split in cifar10.splits.items()
    }
    folder, archive = content(changed(cifar10, splits=splits), "train"), content(cifar10, "train")
    assert list(folder) == list(archive)
    assert all(np.array_equal(folder[name][1], archive[name][1]) for name in folder)


def test_fetch_downloads_only_what_is_not_there(root, monkeypatch):
    dataset = downloaded("cifar10", cifar10_members(), root)
    (archive,) = dataset.files
    packed, asked = (root / archive).read_bytes(), []

    def download(url, path, expected):
        asked.append(url)
        assert expected == dataset.files[archive]
        path.write_bytes(packed)

    monkeypatch.setattr(cifar, "download", download)
    assert cifar.fetch(dataset) == [root / "cifar-10-binary.tar"]
    (root / archive).unlink()
    cifar.fetch(dataset)  # the plain tar is there
    assert asked == []
    (root / "cifar-10-binary.tar").unlink()
    assert cifar.fetch(dataset) == [root / "cifar-10-binary.tar"]
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
    assert (root / "cifar-10-binary.tar").read_bytes() == gzip.decompress(packed)


def test_a_half_downloaded_archive_is_named_with_the_address(root):
    dataset = downloaded("cifar10", cifar10_members(), root)
    (archive,) = dataset.files
    with open(root / archive, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz: has 1,000 bytes.*https://www.cs.toronto.edu"):
        cifar.fetch(dataset)


def test_index_without_the_archive_says_to_fetch_it(root):
    root.mkdir()
    dataset = changed(load_dataset("cifar10", CONFIG), root=str(root))
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz: no such file; `noah fetch cifar10` downloads"):
        cifar.index(dataset, "train")


class Trap:
    def __reduce__(self):
        return pytest.fail, ("the pickle was opened",)


def test_the_python_archive_is_refused_by_its_name(cifar10, root):
    splits = {name: {"num_shards": 1, "raw": {"archive": "cifar-10-python.tar.gz"}} for name in ("train", "test")}
    dataset = changed(cifar10, splits=splits)
    write_tar(root / "cifar-10-python.tar.gz", {"cifar-10-batches-py/data_batch_1": pickle.dumps(Trap())})
    for step in (lambda: cifar.fetch(dataset), lambda: cifar.index(dataset, "train")):
        with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz: .* is a pickle .* cifar-10-binary.tar.gz"):
            step()


def test_the_python_archive_is_refused_by_its_members_under_another_name(root):
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    dataset = repacked(root, {f"cifar-10-batches-py/{name}": pickle.dumps(Trap()) for name in names})
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar: .* is a pickle .*expected cifar-10-binary.tar.gz"):
        cifar.index(dataset, "train")


def test_a_missing_batch_is_named(root):
    members = cifar10_members()
    del members["cifar-10-batches-bin/data_batch_4.bin"]
    with pytest.raises(ValueError, match=r"has no data_batch_4.bin, expected the members of cifar-10-binary.tar.gz"):
        cifar.index(repacked(root, members), "train")


def test_a_batch_of_broken_records_is_named(root):
    members = cifar10_members()
    members["cifar-10-batches-bin/data_batch_2.bin"] += b"\0"
    with pytest.raises(ValueError, match=r"data_batch_2.bin has 61,461 bytes, expected records of 3,073"):
        cifar.index(repacked(root, members), "train")


def test_class_names_are_compared_with_the_archives(root):
    members = cifar10_members()
    members["cifar-10-batches-bin/batches.meta.txt"] = b"airplane\ncar\n"
    with pytest.raises(ValueError, match=r"batches.meta.txt: got 2 class names, expected 10"):
        cifar.index(repacked(root, members), "train")


def test_class_names_that_differ_are_named(cifar10):
    renamed = changed(cifar10, classes=("airplane", "car", *cifar10.classes[2:]))
    with pytest.raises(ValueError, match=r"batches.meta.txt: class 1 is 'automobile', expected 'car'"):
        cifar.index(renamed, "train")


def test_another_number_of_classes_is_refused(cifar10):
    with pytest.raises(ValueError, match=r"got 3 classes, expected 10 .*100 or 20"):
        cifar.index(changed(cifar10, classes=("a", "b", "c")), "train")


def test_a_label_outside_the_classes_is_refused(root):
    members = cifar10_members()
    members["cifar-10-batches-bin/data_batch_1.bin"] = record((200,), 0)
    with pytest.raises(ValueError, match="label of 'data_batch_1/00000' is 200, expected 0 to 9"):
        cifar.index(repacked(root, members), "train")
