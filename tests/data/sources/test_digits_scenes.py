import hashlib
import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits_builder import build, changed
from PIL import Image
from tests_support import REPOSITORY

from noah.config import load_dataset
from noah.data.sources import digits_scenes, scenes
from noah.data.verify import verify

GOLDEN = "50f70395d7e463247a2a0a89f62c9ae22815ecb16ea85c1cb747a6c203c4b757"
"""Of the first 40 test scenes of the default study: published results were measured on these bytes."""

GRID = {"canvas": 24, "digit_px": [8, 12], "digits": [1, 4], "grid": 2, "clutter": 0}


@pytest.fixture
def multi(tiny):
    """One to four digits in a scene."""
    return changed(tiny, multi_label=True, scenes=GRID, image_size=24)


@pytest.fixture
def own_copy(tiny, raw, tmp_path):
    """A dataset whose raw files a test may break."""
    shutil.copytree(raw, tmp_path / "raw")
    return changed(tiny, root=str(tmp_path / "raw")), tmp_path / "raw"


def subjects(dataset, split):
    return set(digits_scenes.index(dataset, split)["offset"].to_pylist())


def test_fetch_leaves_right_files_untouched(own_copy):
    dataset, root = own_copy
    before = [(path, path.stat().st_mtime_ns) for path in sorted(root.iterdir())]
    assert digits_scenes.fetch(dataset) == [path for path, _ in before]
    assert [(path, path.stat().st_mtime_ns) for path in sorted(root.iterdir())] == before


def test_fetch_names_an_altered_file_both_sums_and_the_remedy(own_copy):
    dataset, root = own_copy
    (root / "labels.npy").write_bytes(b"altered")
    with pytest.raises(ValueError, match=f"labels.npy: sha256 is .*{dataset.files['labels.npy']}.*noah fetch tiny"):
        digits_scenes.fetch(dataset)
    assert (root / "labels.npy").read_bytes() == b"altered"


def test_fetch_writes_nothing_that_the_dataset_does_not_expect(tiny, tmp_path):
    dataset = changed(tiny, root=str(tmp_path), files={**tiny.files, "images.npy": "0" * 64})
    with pytest.raises(ValueError, match=r"images\.npy: sha256 is"):
        digits_scenes.fetch(dataset)
    assert list(tmp_path.iterdir()) == []


def test_raw_digits_are_scikit_learns(tiny, raw):
    from sklearn.datasets import load_digits

    assert np.array_equal(np.load(raw / "images.npy"), load_digits().images)
    assert np.array_equal(np.load(raw / "labels.npy"), load_digits().target)


def test_index_points_at_the_raw_digit_and_its_label(tiny, raw):
    images, labels = np.load(raw / "images.npy"), np.load(raw / "labels.npy")
    content = (raw / "images.npy").read_bytes()
    for row in digits_scenes.index(tiny, "test").to_pylist():
        digit = np.frombuffer(content[row["offset"] : row["offset"] + row["size"]], np.uint8).reshape(8, 8)
        matches = np.flatnonzero((images == digit).all((1, 2)))
        assert labels[matches].tolist() == [row["label"]]
        assert row["key"].isdigit()


def test_splits_share_no_digit_and_use_the_number_asked_for(tiny):
    used = {split: subjects(tiny, split) for split in tiny.splits}
    assert len(set.union(*used.values())) == sum(map(len, used.values()))
    assert [len(used[split]) for split in ("train", "test")] == [40, 20]


def test_clutter_comes_from_the_splits_own_digits_only(tiny, monkeypatch):
    pasted = {split: set() for split in tiny.splits}
    compose = scenes._compose

    def spy(dataset, objects, chosen, others, rng):
        assert not set(chosen) & set(others)
        pasted[split] |= {*chosen, *others}
        return compose(dataset, objects, chosen, others, rng)

    monkeypatch.setattr(scenes, "_compose", spy)
    for split in tiny.splits:
        read = digits_scenes.open_source(tiny, split)
        for row in digits_scenes.index(tiny, split).to_pylist():
            read(row)
    assert {split: len(digits) for split, digits in pasted.items()} == {"train": 40, "minival": 20, "test": 20}
    assert len(set.union(*pasted.values())) == 80


def test_classes_have_their_share_of_every_split(tiny):
    dataset = changed(tiny, splits={s: {**v.model_dump(), "samples": v.source_images} for s, v in tiny.splits.items()})
    for split, spec in dataset.splits.items():
        counts = np.bincount(digits_scenes.index(dataset, split)["label"].to_numpy(), minlength=10)
        assert abs(counts - spec.source_images / 10).max() <= 1, (split, counts)


def test_another_size_of_train_leaves_the_test_digits_alone(tiny):
    splits = {name: split.model_dump() for name, split in tiny.splits.items()}
    splits["train"] |= {"samples": 7, "source_images": 300}
    assert digits_scenes.index(changed(tiny, splits=splits), "test").equals(digits_scenes.index(tiny, "test"))


def test_a_scene_is_pure_in_seed_split_and_key(tiny):
    rows = digits_scenes.index(tiny, "train").to_pylist()
    read, again = digits_scenes.open_source(tiny, "train"), digits_scenes.open_source(tiny, "train")
    forwards = [read(row) for row in rows]
    assert [again(row) for row in reversed(rows)] == forwards[::-1]
    assert len(set(forwards)) == len(rows)
    reseeded = changed(tiny, seed=1)
    assert digits_scenes.index(reseeded, "train")["offset"].to_pylist() != [row["offset"] for row in rows]


def test_a_scene_is_a_grayscale_png_with_a_bright_digit_on_black(tiny):
    read = digits_scenes.open_source(tiny, "test")
    for row in digits_scenes.index(tiny, "test").to_pylist():
        field, data = read(row)
        scene = Image.open(io.BytesIO(data))
        assert (field, scene.format, scene.mode, scene.size) == ("png", "PNG", "L", (16, 16))
        assert np.asarray(scene).max() > 200
        assert np.asarray(scene).min() == 0


def test_clutter_is_as_dim_as_asked(tiny):
    def total(strength):
        dataset = changed(tiny, scenes={**tiny.scenes.model_dump(), "clutter_strength": strength})
        read = digits_scenes.open_source(dataset, "test")
        rows = digits_scenes.index(dataset, "test").to_pylist()
        return sum(int(np.asarray(Image.open(io.BytesIO(read(row)[1]))).sum()) for row in rows)

    assert total(0.0) < total(0.5) < total(1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"files": {}}, r"files: missing key 'images\.npy'"),
        ({"classes": ("0", "1", "2")}, r"labels\.npy: label of digit 3 is 3, expected 0 to 2"),
        ({"root": "nowhere"}, r"nowhere/images\.npy: no such file.*noah fetch tiny"),
    ],
)
def test_index_names_what_is_wrong_with_the_data(tiny, fields, message):
    with pytest.raises(ValueError, match=message):
        digits_scenes.index(changed(tiny, **fields), "train")


@pytest.mark.parametrize(
    ("count", "message"),
    [(1800, "1840 in all, expected at most the 1797"), (1, "train.source_images is 1.*at least 2")],
)
def test_index_names_a_number_of_digits_that_cannot_be(tiny, count, message):
    splits = {name: split.model_dump() for name, split in tiny.splits.items()}
    splits["train"]["source_images"] = count
    with pytest.raises(ValueError, match=message):
        digits_scenes.index(changed(tiny, splits=splits), "train")


def test_altered_raw_data_stops_index_and_sharding(own_copy):
    dataset, root = own_copy
    row = digits_scenes.index(dataset, "test").to_pylist()[0]
    content = bytearray((root / "images.npy").read_bytes())
    content[-1] ^= 1
    (root / "images.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.npy: sha256"):
        digits_scenes.index(dataset, "test")
    with pytest.raises(ValueError, match=r"images\.npy: sha256"):
        digits_scenes.open_source(dataset, "test")(row)


def test_a_row_of_another_split_is_refused(tiny):
    row = digits_scenes.index(tiny, "train").to_pylist()[0]
    with pytest.raises(ValueError, match=r"images\.npy: offset .* is no image of test"):
        digits_scenes.open_source(tiny, "test")(row)


def test_the_scenes_of_the_default_study_never_change(raw):
    dataset = changed(load_dataset("digits", REPOSITORY / "config"), root=str(raw))
    read = digits_scenes.open_source(dataset, "test")
    rows = digits_scenes.index(dataset, "test").slice(0, 40).to_pylist()
    pixels = [np.asarray(Image.open(io.BytesIO(read(row)[1]))).tobytes() for row in rows]
    assert hashlib.sha256(b"".join(pixels)).hexdigest() == GOLDEN


def test_labels_of_a_scene_are_the_classes_of_its_digits(multi, raw):
    labels = np.load(raw / "labels.npy")
    rows = digits_scenes.index(multi, "train").to_pylist()
    assert {len(row["objects"]) for row in rows} == {1, 2, 3, 4}
    for row in rows:
        assert row["labels"] == sorted(set(labels[row["objects"]].tolist()))
    assert any(len(row["labels"]) < len(row["objects"]) for row in rows)


def test_every_digit_of_a_split_takes_its_turn_in_multi_label_scenes(multi):
    used = {split: digits_scenes.index(multi, split)["objects"].to_pylist() for split in multi.splits}
    used = {split: [number for scene in scenes for number in scene] for split, scenes in used.items()}
    for split, numbers in used.items():
        counts = np.unique_counts(numbers).counts
        assert len(counts) == min(len(numbers), multi.splits[split].source_images)
        assert np.ptp(counts) <= 1
    assert not set(used["train"]) & set(used["test"])


def test_every_digit_of_a_grid_has_a_cell_for_itself(multi):
    read = digits_scenes.open_source(multi, "train")
    for row in digits_scenes.index(multi, "train").to_pylist():
        scene = np.asarray(Image.open(io.BytesIO(read(row)[1])))
        cells = scene.reshape(2, 12, 2, 12).max(axis=(1, 3))
        assert (cells > 150).sum() == len(row["objects"])
        assert (cells == 0).sum() == 4 - len(row["objects"])


def test_a_dataset_of_one_object_may_be_multi_label(multi):
    dataset = changed(multi, scenes={**multi.scenes.model_dump(), "digits": [1, 1]})
    assert {len(labels) for labels in digits_scenes.index(dataset, "test")["labels"].to_pylist()} == {1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"multi_label": False}, r"multi_label is False, expected True with scenes.digits \[1, 4\]"),
        (
            {"scenes": {"canvas": 24, "digit_px": [8, 13], "digits": [1, 4], "grid": 2, "clutter": 0}},
            "grid is 2.*12 px",
        ),
        ({"scenes": {"canvas": 24, "digit_px": [8, 12], "digits": [1, 5], "grid": 2, "clutter": 0}}, "grid is 2"),
    ],
)
def test_scenes_of_several_digits_that_cannot_be_are_refused(multi, fields, message):
    with pytest.raises(ValueError, match=message):
        changed(multi, **fields)


def test_a_multi_label_row_of_another_split_is_refused(multi):
    row = digits_scenes.index(multi, "train").to_pylist()[0]
    with pytest.raises(ValueError, match="is no image of test"):
        digits_scenes.open_source(multi, "test")(row)


def test_multi_label_scenes_become_shards(multi, tmp_path):
    folder = build(multi, "train", tmp_path / "train")
    report = verify(multi, "train", folder)
    assert report["samples"] == 61
    index = pq.read_table(folder / "index.parquet")
    assert index["labels"].to_pylist() == digits_scenes.index(multi, "train")["labels"].to_pylist()


def numbers_of(row) -> list[str]:
    return [str(number) for number in sorted(set(row["objects"]))]


def test_a_scene_names_its_digits_as_its_cluster_and_those_alone(tiny, multi, raw):
    digits = digits_scenes.load_digits(tiny)
    clusters = digits_scenes.index(tiny, "train")["cluster"]
    offsets = digits_scenes.index(tiny, "train")["offset"].to_pylist()
    assert clusters.type == pa.list_(pa.string())
    assert clusters.to_pylist() == [[str(digits.number(offset))] for offset in offsets]
    rows = digits_scenes.index(multi, "train").to_pylist()
    assert {len(row["cluster"]) for row in rows} == {1, 2, 3, 4}
    assert [row["cluster"] for row in rows] == [numbers_of(row) for row in rows]


def test_a_digit_that_is_twice_in_a_scene_is_named_once(multi):
    splits = {name: {**split.model_dump(), "source_images": 10} for name, split in multi.splits.items()}
    rows = digits_scenes.index(changed(multi, splits=splits), "train").to_pylist()
    assert any(len(row["cluster"]) < len(row["objects"]) for row in rows)
    assert [row["cluster"] for row in rows] == [numbers_of(row) for row in rows]


def test_the_cluster_of_a_scene_changes_no_byte_of_its_tar(tiny, tmp_path, monkeypatch):
    index = digits_scenes.index
    monkeypatch.setattr(digits_scenes, "index", lambda *arguments: index(*arguments).drop_columns("cluster"))
    without = build(tiny, "test", tmp_path / "without")
    monkeypatch.undo()
    named = build(tiny, "test", tmp_path / "with")
    for tar in named.glob("*.tar"):
        assert tar.read_bytes() == (without / tar.name).read_bytes()
    one, other = (pq.read_table(out / "index.parquet") for out in (named, without))
    assert one.drop_columns("cluster").equals(other)
