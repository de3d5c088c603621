"""A replica of ILSVRC2012 with three classes: the archives, the devkit, and the folders that people unpack them to."""

import hashlib
import io
import re
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from digits_builder import build, changed
from PIL import Image
from replica_images import digit, tar_bytes, write_files
from scipy.io import savemat
from torchvision.datasets.imagenet import ARCHIVE_META

from noah.config import Dataset, load_dataset
from noah.data.images import decode
from noah.data.reader import Shards
from noah.data.sources import imagenet
from noah.data.verify import verify

CONFIG = Path(__file__).parents[3] / "config"
WNIDS = ("n01440764", "n01443537", "n02105855")
TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
TRAIN_FILES = {
    f"{wnid}/{wnid}_{10 * number + 26}.JPEG": digit(4 * place + number)
    for place, wnid in enumerate(WNIDS)
    for number in range(4)
}
# As in the real set: one PNG that is called .JPEG, and CMYK JPEGs.
TRAIN_FILES["n02105855/n02105855_2933.JPEG"] = digit(20, format="PNG")
TRAIN_FILES["n01443537/n01443537_3344.JPEG"] = digit(21, mode="CMYK")
IDS = {1: "n02105855", 2: "n01440764", 3: "n01443537"}
"""The devkit numbers its classes in another order than that of the wnids."""
TRUTH = (3, 1, 2, 2, 1, 3, 1)
VAL_FILES = {f"ILSVRC2012_val_{number:08d}.JPEG": digit(30 + number) for number in range(1, len(TRUTH) + 1)}


def meta_mat(year: int = 2012) -> bytes:
    """The leaves, then two of their ancestors, in the structure of the official file."""
    fields = (f"ILSVRC{year}_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    leaves = [(float(number), wnid, "a, b", "text", 0.0, np.zeros((1, 0)), 0.0) for number, wnid in IDS.items()]
    ancestors = [(4.0, "n00001740", "entity", "text", 2.0, np.array([[1.0, 5.0]]), 2.0)]
    ancestors += [(5.0, "n00021939", "artifact", "text", 2.0, np.array([[2.0, 3.0]]), 1.0)]
    synsets = np.empty((5, 1), [(field, object) for field in fields])
    synsets[:, 0] = leaves + ancestors
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets}, do_compression=True)
    return buffer.getvalue()


def devkit_files(truth=TRUTH, meta: bytes | None = None) -> dict[str, bytes]:
    data = "ILSVRC2012_devkit_t12/data"
    return {
        "ILSVRC2012_devkit_t12/readme.txt": b"Introduction",
        f"{data}/meta.mat": meta_mat() if meta is None else meta,
        f"{data}/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in truth).encode(),
    }


def train_tar(files: dict[str, bytes]) -> bytes:
    classes = sorted({name.split("/")[0] for name in files})
    inner = {
        f"{wnid}.tar": tar_bytes({name.split("/")[1]: data for name, data in files.items() if name.startswith(wnid)})
        for wnid in classes
    }
    return tar_bytes(inner)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    archives = {TRAIN: train_tar(TRAIN_FILES), VAL: tar_bytes(VAL_FILES), DEVKIT: tar_bytes(devkit_files(), "w:gz")}
    return write_files(tmp_path / "raw", archives)


@pytest.fixture
def replica(root) -> Dataset:
    splits = {
        "train": {"num_shards": 2, "raw": {"images": TRAIN}},
        "test": {"num_shards": 1, "raw": {"images": VAL, "devkit": DEVKIT}},
    }
    fields = {"name": "replica", "root": str(root), "files": {}, "classes": WNIDS, "splits": splits}
    return changed(load_dataset("imagenet", CONFIG), **fields)


def with_raw(dataset: Dataset, split: str, **raw: str) -> Dataset:
    splits = dataset.model_dump(exclude_none=True)["splits"]
    splits[split]["raw"] = raw
    return changed(dataset, splits=splits)


def labels_of(table) -> list[tuple[str, str]]:
    return [
        (name, WNIDS[label]) for name, label in zip(*(table[c].to_pylist() for c in ("name", "label")), strict=True)
    ]


def validation_labels() -> dict[str, str]:
    return {name: IDS[number] for name, number in zip(VAL_FILES, TRUTH, strict=True)}


def test_the_official_archives_become_shards_with_the_bytes_and_labels_of_each_image(replica, tmp_path):
    contents = {"train": {Path(name).name: data for name, data in TRAIN_FILES.items()}, "test": VAL_FILES}
    expected = {"train": {Path(name).name: name.split("/")[0] for name in TRAIN_FILES}, "test": validation_labels()}
    for split in ("train", "test"):
        folder = build(replica, split, tmp_path / split)
        assert verify(replica, split, folder)["samples"] == len(contents[split])
        shards, found = Shards(folder), dict(labels_of(imagenet.index(replica, split)))
        assert found == expected[split]
        for i, name in enumerate(name for name, _ in labels_of(imagenet.index(replica, split))):
            assert shards.read(i) == contents[split][name]
            assert WNIDS[shards.labels[i]] == expected[split][name]
            assert decode(shards.read(i), name).size == (24, 24)


def test_the_png_called_jpeg_is_stored_as_a_png_and_a_cmyk_jpeg_as_it_is(replica, tmp_path):
    folder = build(replica, "train", tmp_path / "train")
    fields = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            fields |= {tar.extractfile(info).read(): info.name.partition(".")[2] for info in tar}
    assert fields[TRAIN_FILES["n02105855/n02105855_2933.JPEG"]] == "png"
    cmyk = TRAIN_FILES["n01443537/n01443537_3344.JPEG"]
    assert fields[cmyk] == "jpg"
    assert Image.open(io.BytesIO(cmyk)).mode == "CMYK"


def test_unpacked_folders_give_the_order_of_the_archives(replica, root):
    write_files(root / "train", TRAIN_FILES)
    wnid_of = validation_labels()
    write_files(root / "val", {f"{wnid_of[name]}/{name}": data for name, data in VAL_FILES.items()})
    write_files(root / "flat", VAL_FILES)
    write_files(root / "devkit", devkit_files())
    train, test = (labels_of(imagenet.index(replica, split)) for split in ("train", "test"))
    assert labels_of(imagenet.index(with_raw(replica, "train", images="train"), "train")) == train
    assert labels_of(imagenet.index(with_raw(replica, "test", images="val"), "test")) == test
    assert labels_of(imagenet.index(with_raw(replica, "test", images="flat", devkit="devkit"), "test")) == test


def test_classes_are_the_sorted_wordnet_ids_that_timm_has():
    timm = Path(find_spec("timm").origin).parent
    synsets = timm / "data" / "_info" / "imagenet_synsets.txt"
    for name in ("imagenet", "imagenet-256"):
        dataset = load_dataset(name, CONFIG)
        assert list(dataset.classes) == synsets.read_text().split() == sorted(dataset.classes)
        assert dataset.num_classes == 1000


def test_checksums_are_those_that_torchvision_has():
    for name in ("imagenet", "imagenet-256"):
        files = load_dataset(name, CONFIG).files
        assert {file: known.md5 for file, known in files.items()} == dict(ARCHIVE_META.values())


def test_fetch_lists_all_that_is_missing_and_where_it_is_to_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGENET", str(tmp_path))
    with pytest.raises(ValueError, match=f"{TRAIN}: .*{VAL}: .*{re.escape(DEVKIT)}: .*https://image-net.org"):
        imagenet.fetch(load_dataset("imagenet", CONFIG))
    monkeypatch.delenv("IMAGENET")
    with pytest.raises(ValueError, match=r"root is '\$IMAGENET', expected its environment variables to be set"):
        imagenet.fetch(load_dataset("imagenet", CONFIG))


def test_fetch_of_whole_archives_names_them(replica, root):
    assert imagenet.fetch(replica) == [root / name for name in (TRAIN, VAL, DEVKIT)]


@pytest.mark.parametrize("known", [{"bytes": 147897477120}, {"md5": "1d675b47d978889d74fa0da5fadfb00e"}])
def test_a_half_downloaded_or_altered_archive_is_named_with_both_values(replica, root, known):
    found = {"bytes": f"{(root / TRAIN).stat().st_size:,}", "md5": hashlib.md5((root / TRAIN).read_bytes()).hexdigest()}
    (kind,) = known
    expected = f"{known[kind]:,}" if kind == "bytes" else known[kind]
    with pytest.raises(ValueError, match=rf"{TRAIN}: .*{found[kind]}.*expected {expected}"):
        imagenet.index(changed(replica, files={TRAIN: known}), "train")


def test_an_archive_that_is_cut_short_is_refused(replica, root):
    data = (root / TRAIN).read_bytes()
    (root / TRAIN).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=f"{TRAIN}.* short"):
        imagenet.index(replica, "train")


def other_year(root, year, meta="meta.mat"):
    name = (
        f"ILSVRC{year}_validation_ground_truth.txt"
        if year < 2013
        else f"ILSVRC{year}_clsloc_validation_ground_truth.txt"
    )
    files = {f"devkit/data/{meta}": meta_mat(year), f"devkit/data/{name}": b"1\n2\n3\n"}
    (root / DEVKIT).write_bytes(tar_bytes(files, "w:gz"))


def rewrite(root, **changes):
    (root / DEVKIT).write_bytes(tar_bytes(devkit_files(**changes), "w:gz"))


BAD_DEVKITS = {
    "2010": (lambda root: other_year(root, 2010), "ILSVRC2010_validation_ground_truth.txt: a devkit of another year"),
    "2014": (lambda root: other_year(root, 2014, "meta_clsloc.mat"), "has no meta.mat but .*ILSVRC2014_clsloc_"),
    "meta of another year": (lambda root: rewrite(root, meta=meta_mat(2010)), "meta.mat: no synsets of ILSVRC2012"),
    "broken meta": (lambda root: rewrite(root, meta=meta_mat()[:300]), "meta.mat: no synsets of ILSVRC2012"),
    "empty meta": (lambda root: rewrite(root, meta=b""), "meta.mat: no synsets of ILSVRC2012"),
    "pickle as meta": (lambda root: rewrite(root, meta=b"\x80\x04N." * 100), "meta.mat: no synsets of ILSVRC2012"),
    "too few lines": (
        lambda root: rewrite(root, truth=TRUTH[:-1]),
        "has 7 images, expected 6, the lines of ILSVRC2012_val",
    ),
    "an ancestor": (lambda root: rewrite(root, truth=(4, *TRUTH[1:])), "line 1 is '4', expected an ILSVRC2012_ID"),
    "no number": (lambda root: rewrite(root, truth=("cat", *TRUTH[1:])), "line 1 is 'cat', expected an ILSVRC2012_ID"),
    "cut short": (lambda root: (root / DEVKIT).write_bytes((root / DEVKIT).read_bytes()[:400]), "not a whole .tar.gz"),
    "missing": (lambda root: (root / DEVKIT).unlink(), f"{DEVKIT}: no such file"),
}


@pytest.mark.parametrize("case", BAD_DEVKITS)
def test_a_devkit_that_is_missing_damaged_or_of_another_year_is_one_line(replica, root, case):
    damage, message = BAD_DEVKITS[case]
    damage(root)
    with pytest.raises(ValueError, match=message) as caught:
        imagenet.index(replica, "test")
    assert "\n" not in str(caught.value)


def test_flat_validation_images_ask_for_the_devkit(replica):
    with pytest.raises(ValueError, match=rf"splits.test.raw needs a devkit \(as {DEVKIT}"):
        imagenet.index(with_raw(replica, "test", images=VAL), "test")


def test_a_missing_validation_image_does_not_shift_the_labels(replica, root):
    files = dict(VAL_FILES)
    files["ILSVRC2012_val_00000008.JPEG"] = files.pop("ILSVRC2012_val_00000003.JPEG")
    (root / VAL).write_bytes(tar_bytes(files))
    with pytest.raises(ValueError, match=r"has no ILSVRC2012_val_00000003\.JPEG"):
        imagenet.index(replica, "test")


def test_folders_and_classes_that_do_not_fit_each_other_are_named(replica, root):
    other = {**TRAIN_FILES, "n02119789/n02119789_1.JPEG": digit(1)}
    (root / TRAIN).write_bytes(train_tar(other))
    with pytest.raises(ValueError, match=f"{TRAIN}: 'n02119789' is no class of dataset replica"):
        imagenet.index(replica, "train")
    (root / TRAIN).write_bytes(train_tar({name: data for name, data in TRAIN_FILES.items() if WNIDS[1] not in name}))
    with pytest.raises(ValueError, match="split train has no image of class 'n01443537'"):
        imagenet.index(replica, "train")
    (root / TRAIN).write_bytes(tar_bytes(VAL_FILES))
    with pytest.raises(ValueError, match=r"'ILSVRC2012_val_00000001\.JPEG' lies in no class folder"):
        imagenet.index(replica, "train")


def test_classes_out_of_order_are_refused(replica):
    with pytest.raises(ValueError, match="classes: expected WordNet ids in sorted order"):
        imagenet.index(changed(replica, classes=WNIDS[::-1]), "train")
