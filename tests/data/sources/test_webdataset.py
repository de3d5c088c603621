"""WebDataset tars as others write them, here by webdataset itself, indexed where they are."""

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from digits_builder import build, changed
from replica_images import digit, tar_bytes, write_files

from noah.config import Dataset
from noah.data.reader import Shards
from noah.data.sources import webdataset
from noah.data.verify import verify

CLASSES = ("cat", "dog", "emu")
NUM_TARS, PER_TAR = 3, 4


def label_of(tar: int, number: int) -> int:
    return (tar + number) % len(CLASSES)


def dataset_of(
    root: Path, label="cls", tars="train-{0000..0002}.tar", num_shards=NUM_TARS, image: dict | None = None, **fields
) -> Dataset:
    raw = {"tars": tars, "label": label, **(image or {})}
    splits = {name: {"num_shards": num_shards, "raw": raw} for name in ("train", "test")}
    plain = {"name": "theirs", "source": "webdataset", "root": str(root), "classes": CLASSES, "splits": splits}
    return Dataset(**{**plain, "image_size": 24, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), **fields})


def samples(dataset: Dataset) -> dict:
    index = webdataset.index(dataset, "train")
    column = "labels" if dataset.multi_label else "label"
    return dict(zip(index["name"].to_pylist(), index[column].to_pylist(), strict=True))


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.fixture
def root(tmp_path) -> Path:
    """Tars in which a sample has an image, a number, JSON, text, and a pickle."""
    root = tmp_path / "raw"
    root.mkdir()
    for tar in range(NUM_TARS):
        with wds.TarWriter(str(root / f"train-{tar:04d}.tar")) as writer:
            for number in range(PER_TAR):
                label = label_of(tar, number)
                writer.write(
                    {
                        "__key__": f"part/{tar}-{number}",
                        "jpg": digit(10 * tar + number),
                        "cls": str(label).encode(),
                        "json": json.dumps({"label": CLASSES[label], "labels": [label, "emu"], "n": None}).encode(),
                        "pyd": pickle.dumps(Trap()),
                    }
                )
    return root


EXPECTED = {
    f"train-{tar:04d}.tar/part/{tar}-{number}": label_of(tar, number)
    for tar in range(NUM_TARS)
    for number in range(PER_TAR)
}


def test_samples_keep_the_order_of_their_tars_and_labels_come_from_any_plain_field(root):
    for label in ("cls", "json:label"):
        assert list(samples(dataset_of(root, label)).items()) == list(EXPECTED.items())
    both = samples(dataset_of(root, "json:labels", multi_label=True))
    assert both == {name: sorted({label, 2}) for name, label in EXPECTED.items()}
    assert list(samples(dataset_of(root, tars="train-*.tar")).items()) == list(EXPECTED.items())


def test_a_number_in_a_text_field_is_a_number_whatever_the_classes_are_called(root):
    assert samples(dataset_of(root, classes=("1", "2", "3"))) == EXPECTED


def test_several_labels_may_stand_in_a_text_field(root):
    dataset = one_tar(root, {"x.jpg": digit(7), "x.cls": b"dog; 2"}, multi_label=True)
    assert samples(dataset)["one.tar/x"] == [1, 2]


def test_the_index_points_at_the_images_where_they_are(root):
    dataset = dataset_of(root)
    read, rows = webdataset.open_source(dataset, "train"), webdataset.index(dataset, "train").to_pylist()
    images = [digit(10 * tar + number) for tar in range(NUM_TARS) for number in range(PER_TAR)]
    assert [read(row) for row in rows] == [("jpg", image) for image in images]


def test_shards_are_links_to_the_tars(root, tmp_path):
    dataset = dataset_of(root)
    out = build(dataset, "train", tmp_path / "shards")
    assert verify(dataset, "train", out)["samples"] == len(EXPECTED)
    for tar in range(NUM_TARS):
        link = out / dataset.shard_name("train", tar)
        assert link.is_symlink()
        assert link.resolve() == (root / f"train-{tar:04d}.tar").resolve()
    shards = Shards(out)
    assert shards.labels.tolist() == list(EXPECTED.values())
    assert shards.read(5) == digit(11)
    assert pq.read_table(out / "index.parquet")["shard"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4


def test_the_number_of_shards_is_the_number_of_tars(root):
    with pytest.raises(ValueError, match=r"splits\.train\.num_shards is 2, expected 3, one per tar"):
        webdataset.index(dataset_of(root, num_shards=2), "train")


def test_a_minival_is_not_cut_from_tars_in_place(root):
    dataset = dataset_of(root)
    splits = {**dataset.model_dump(exclude_none=True)["splits"], "minival": {"num_shards": NUM_TARS}}
    with pytest.raises(ValueError, match=r"minival_share is 0\.1, expected 0 for tars in place"):
        webdataset.index(changed(dataset, splits=splits, minival_share=0.1), "train")


def test_missing_tars_are_listed_at_once_and_a_pattern_without_any_is_named(root):
    with pytest.raises(ValueError, match=r"train-0003\.tar: no such file; train-0004\.tar: no such file"):
        webdataset.fetch(dataset_of(root, tars="train-{0000..0004}.tar"))
    with pytest.raises(ValueError, match=r"no file is like 'val-\*\.tar'"):
        webdataset.fetch(dataset_of(root, tars="val-*.tar"))
    with pytest.raises(ValueError, match=r"splits\.train\.raw\.tars: got 'train-\{0\.tar'"):
        webdataset.fetch(dataset_of(root, tars="train-{0.tar"))
    assert len(webdataset.fetch(dataset_of(root))) == NUM_TARS


def one_tar(root: Path, files: dict[str, bytes], label: str = "cls", **fields) -> Dataset:
    """A dataset of one tar with these members, and one sample of each class before them."""
    whole = {}
    for number in range(len(CLASSES)):
        whole |= {f"{number}.jpg": digit(number), f"{number}.cls": str(number).encode()}
        whole[f"{number}.json"] = json.dumps({"label": number}).encode()
    write_files(root, {"one.tar": tar_bytes({**whole, **files})})
    return dataset_of(root, label, "one.tar", 1, **fields)


PAIR = {"x.jpg": digit(7), "x.cls": b"1"}


def test_missing_labels_and_images_are_left_to_the_quarantine(root):
    for label, files in {"cls": {"x.jpg": PAIR["x.jpg"]}, "json:label": {**PAIR, "x.json": b'{"n": 1}'}}.items():
        assert samples(one_tar(root, files, label))["one.tar/x"] is None
    assert samples(one_tar(root, {**PAIR, "x.cls": b" \n"}))["one.tar/x"] is None
    dataset = one_tar(root, {"x.cls": b"1", "x.txt": b"a caption"})
    assert webdataset.index(dataset, "train").to_pylist()[3]["size"] == 0
    assert samples(dataset)["one.tar/x"] == 1


def test_the_quarantine_names_them(root, tmp_path):
    dataset = one_tar(root, {"x.cls": b"1", "y.jpg": digit(8), "z.jpg": b"no image", "z.cls": b"1"})
    with pytest.raises(
        ValueError, match=r"3 of the 6 images of theirs train are bad .*first: one\.tar/x: .*zero bytes"
    ):
        build(dataset, "train", tmp_path / "shards")
    out = build(changed(dataset, allow_bad=0.5), "train", tmp_path / "allowed")
    assert verify(changed(dataset, allow_bad=0.5), "train", out)["samples"] == 3
    bad = (out / "quarantine.csv").read_text()
    for name in ("one.tar/x,", "one.tar/y,has no label", 'one.tar/z,"does not decode'):
        assert name in bad


def test_keys_without_image_and_label_are_left_out_and_counted(root, capsys):
    assert len(samples(one_tar(root, {"README.md": b"about", "dataset.yaml": b"x: 1"}))) == 3
    assert "left out 2 keys that have neither an image nor a label, the first one.tar/README" in capsys.readouterr().err


def test_one_of_several_images_is_chosen_by_its_field(root):
    files = {"x.jpg": digit(7), "x.mask.png": digit(8, format="PNG"), "x.cls": b"1"}
    with pytest.raises(ValueError, match=r"key 'x' has images jpg, mask\.png: splits\.train\.raw\.image names the one"):
        samples(one_tar(root, files))
    dataset = one_tar(root, files, image={"image": "jpg"})
    row = webdataset.index(dataset, "train").to_pylist()[3]
    assert webdataset.open_source(dataset, "train")(row) == ("jpg", digit(7))


BAD_TARS = {
    "key twice": ({**PAIR, "y.jpg": digit(8), "x.png": digit(9)}, "cls", "key 'x' occurs twice"),
    "field twice": ({**PAIR, "x.JPG": digit(9)}, "cls", "key 'x' occurs twice"),
    "unknown class": (
        {**PAIR, "x.cls": b"cow"},
        "cls",
        r"one\.tar: x\.cls is 'cow', expected a class name or a number",
    ),
    "number too large": ({**PAIR, "x.cls": b"3"}, "cls", r"x\.cls is 3, expected a class name or a number from 0 to 2"),
    "absurd number": ({**PAIR, "x.cls": b"9" * 5000}, "cls", r"x\.cls is '9+', expected a class name or a number"),
    "no text": ({**PAIR, "x.cls": b"\xff\x00"}, "cls", r"x\.cls: not text in UTF-8"),
    "no JSON": ({**PAIR, "x.json": b"{"}, "json:label", r"x\.json: not JSON"),
    "deep JSON": ({**PAIR, "x.json": b"[" * 100_000}, "json:label", r"x\.json: not JSON"),
    "JSON list": ({**PAIR, "x.json": b"[1]"}, "json:label", r"x\.json: got list, expected an object with 'label'"),
    "JSON truth": ({**PAIR, "x.json": b'{"label": true}'}, "json:label", r"x\.json: label is True, expected a class"),
}


@pytest.mark.parametrize("case", BAD_TARS)
def test_a_bad_sample_is_named(root, case):
    files, label, message = BAD_TARS[case]
    with pytest.raises(ValueError, match=message):
        samples(one_tar(root, files, label))


@pytest.mark.parametrize("label", ["pyd", "meta.pkl", "pickle:label", "pth"])
def test_a_pickle_is_refused_as_a_label(root, label):
    with pytest.raises(ValueError, match=rf"splits\.train\.raw\.label: got '{label}', a pickle, which is never opened"):
        samples(dataset_of(root, label))


def clusters_of(dataset: Dataset) -> dict:
    index = webdataset.index(dataset, "train")
    assert index["cluster"].type == pa.list_(pa.string())
    return dict(zip(index["name"].to_pylist(), index["cluster"].to_pylist(), strict=True))


def test_a_cluster_comes_from_any_plain_field_and_reaches_the_reader(root, tmp_path):
    expected = {name: sorted({str(label), "emu"}) for name, label in EXPECTED.items()}
    dataset = dataset_of(root, image={"cluster": "json:labels"})
    assert clusters_of(dataset) == expected
    assert Shards(build(dataset, "train", tmp_path / "shards")).clusters.to_pylist() == list(expected.values())
    texts = clusters_of(dataset_of(root, image={"cluster": "cls"}))
    assert texts == {name: [str(label)] for name, label in EXPECTED.items()}
    assert "cluster" not in webdataset.index(dataset_of(root), "train").column_names


def clustered(number: int, cluster: str) -> dict[str, bytes]:
    return {f"{number}.json": json.dumps({"patient": cluster}).encode()}


BAD_CLUSTERS = {
    "no field": (PAIR, "json:patient", "one.tar: key 'x' has no field json, which splits.train.raw.cluster names"),
    "no value": ({**PAIR, "x.json": b"{}"}, "json:patient", r"x\.json: patient is None, expected a name"),
    "empty": ({**PAIR, "x.json": b'{"patient": " "}'}, "json:patient", r"x\.json: patient is ' ', expected a name"),
    "no text": (
        {**PAIR, "x.json": b'{"patient": "\\ud800"}'},
        "json:patient",
        r"theirs: cluster .* is not UTF-8",
    ),
    "pickle": (PAIR, "pyd", r"splits\.train\.raw\.cluster: got 'pyd', a pickle, which is never opened"),
}


@pytest.mark.parametrize("case", BAD_CLUSTERS)
def test_a_sample_without_a_cluster_is_named(root, case):
    files, field, message = BAD_CLUSTERS[case]
    own = {name: data for number in range(len(CLASSES)) for name, data in clustered(number, "a").items()}
    with pytest.raises(ValueError, match=message):
        clusters_of(one_tar(root, {**own, **files}, image={"cluster": field}))
