import gzip
import io
import shutil

import numpy as np
import pytest
from digits_builder import build, changed
from idx_replica import idx, raw_files, write_replica
from PIL import Image
from tests_support import REPOSITORY

from noah.config import load_dataset
from noah.data.sources import fashion_mnist
from noah.data.verify import verify


@pytest.fixture
def fashion(raw, tmp_path, monkeypatch):
    """A replica of Fashion-MNIST with its gzips in place, on a machine that can get no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "installed")
    monkeypatch.setattr(fashion_mnist, "_copied_from_package", lambda names, root: False)
    root = tmp_path / "fashion"
    splits = {
        "train": {"num_shards": 2, "raw": raw_files("train")},
        "minival": {"num_shards": 1},
        "test": {"num_shards": 1, "raw": raw_files("test")},
    }
    fields = {"root": str(root), "files": write_replica(root, raw), "splits": splits, "minival_share": 0.2}
    return changed(load_dataset("fashion-mnist", REPOSITORY / "config"), **fields), root


def test_fetch_unpacks_the_files_that_lie_in_the_root(fashion):
    dataset, _ = fashion
    paths = fashion_mnist.fetch(dataset)
    assert len(paths) == 4
    for path in paths:
        assert path.read_bytes() == gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
    before = [path.stat().st_mtime_ns for path in paths]
    assert [path.stat().st_mtime_ns for path in fashion_mnist.fetch(dataset)] == before


def test_fetch_takes_the_installed_package(fashion, tmp_path):
    dataset, root = fashion
    shutil.move(root, tmp_path / "installed")
    assert all(path.parent == root and path.is_file() for path in fashion_mnist.fetch(dataset))


def test_fetch_downloads_from_the_authors_with_their_md5(fashion, monkeypatch):
    dataset, root = fashion
    shutil.move(root, root.with_name("server"))
    asked = {}

    def download(url, path, expected):
        asked[url.rpartition("/")[2]] = expected.md5
        path.parent.mkdir(exist_ok=True)
        shutil.copy(root.with_name("server") / path.name, path)

    monkeypatch.setattr(fashion_mnist, "download", download)
    fashion_mnist.fetch(dataset)
    assert asked == fashion_mnist.PUBLISHED_MD5


def test_fetch_says_what_is_missing_and_where_to_get_it(fashion, monkeypatch):
    dataset, root = fashion
    for path in root.iterdir():
        path.unlink()

    def no_network(url, path, expected):
        raise ValueError(f"{url}: cannot be downloaded")

    monkeypatch.setattr(fashion_mnist, "download", no_network)
    with pytest.raises(ValueError, match=r"missing t10k-images.*train-labels.*dataset-fashion-mnist.*cannot be down"):
        fashion_mnist.fetch(dataset)


def test_fetch_refuses_a_gzip_that_is_cut_short(fashion):
    dataset, root = fashion
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        fashion_mnist.fetch(dataset)
    assert not (root / "train-images-idx3-ubyte").exists()


def test_fetch_refuses_other_data(fashion):
    dataset, root = fashion
    (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(300, np.uint8))))
    with pytest.raises(ValueError, match=f"sha256 is .* expected {dataset.files['train-labels-idx1-ubyte']}"):
        fashion_mnist.fetch(dataset)


def test_an_image_is_its_pixels_and_has_its_label(fashion, raw):
    dataset, _ = fashion
    fashion_mnist.fetch(dataset)
    digits, labels = np.load(raw / "images.npy")[300:], np.load(raw / "labels.npy")[300:]
    read = fashion_mnist.open_source(dataset, "test")
    rows = fashion_mnist.index(dataset, "test").to_pylist()
    assert len(rows) == 100
    for row in rows:
        field, data = read(row)
        number = int(row["name"].rpartition("/")[2])
        expected = Image.fromarray(digits[number] * 15).resize((28, 28))
        assert (field, row["label"]) == ("png", labels[number])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(expected))


def test_minival_is_cut_from_the_training_images(fashion):
    dataset, _ = fashion
    fashion_mnist.fetch(dataset)
    train, minival = (set(fashion_mnist.index(dataset, split)["name"].to_pylist()) for split in ("train", "minival"))
    assert not train & minival
    assert len(train | minival) == 300
    assert 30 < len(minival) < 90


def test_images_become_shards(fashion, tmp_path):
    dataset, _ = fashion
    fashion_mnist.fetch(dataset)
    assert verify(dataset, "test", build(dataset, "test", tmp_path / "test"))["samples"] == 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"\x89PNG, no idx", r"begins with 89504e47, expected 000008"),
        ("train-images-idx3-ubyte", idx(np.zeros((300, 28, 28), np.uint8))[:-1], r"bytes, expected 235,216"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03\0", r"has 5 bytes"),
        ("train-labels-idx1-ubyte", idx(np.zeros(299, np.uint8)), r"images \(300, 28, 28\) for labels \(299,\)"),
        ("train-labels-idx1-ubyte", idx(np.full(300, 10, np.uint8)), r"label of .* is 10, expected 0 to 9"),
    ],
)
def test_index_names_the_file_that_is_wrong(fashion, name, content, message):
    dataset, root = fashion
    fashion_mnist.fetch(dataset)
    (root / name).write_bytes(content)
    files = {key: value for key, value in dataset.files.items() if key != name}
    with pytest.raises(ValueError, match=message):
        fashion_mnist.index(changed(dataset, files=files), "train")


@pytest.mark.system
@pytest.mark.skipif(not fashion_mnist.INSTALLED.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_published_files_have_7000_images_of_each_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = changed(load_dataset("fashion-mnist", REPOSITORY / "config"), root=str(tmp_path / "raw"))
    fashion_mnist.fetch(dataset)
    train, test = (fashion_mnist.load_images(dataset, split) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((60000, 28, 28), (10000, 28, 28))
    assert (np.bincount(train.labels), np.bincount(test.labels)) == (pytest.approx(6000), pytest.approx(1000))
