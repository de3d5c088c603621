import pyarrow as pa
import pytest
from digits_builder import changed
from photos import folder_dataset

from noah.data.containers import Entry
from noah.data.order import source_index


def images(count=30, container="a.tar"):
    return [(Entry(f"{i % 3}/{i:03d}.jpg", container, 1000 * i, 900 + i), i % 3) for i in range(count)]


@pytest.fixture
def dataset(tmp_path):
    return folder_dataset(tmp_path)


def test_rows_keep_what_belongs_together(dataset):
    table = source_index(dataset, "train", images())
    assert table.column_names == ["key", "name", "container", "offset", "size", "deflated", "label"]
    assert table["key"].to_pylist() == [f"{i:08d}" for i in range(30)]
    by_name = {entry.name: (*entry, label) for entry, label in images()}
    for row in table.to_pylist():
        key = row.pop("key")
        assert tuple(row.values()) == by_name[row["name"]], key


def test_the_order_depends_on_names_and_seed_not_on_where_images_lie(dataset):
    first = source_index(dataset, "train", images())["name"]
    assert source_index(dataset, "train", reversed(images(container="b.zip")))["name"].equals(first)
    assert first.to_pylist() != sorted(first.to_pylist())
    assert not source_index(changed(dataset, seed=1), "train", images())["name"].equals(first)
    assert not source_index(dataset, "test", images())["name"].equals(first)
    kept = source_index(dataset, "train", images(), shuffle=False)
    assert kept["name"].to_pylist() == [entry.name for entry, _ in images()]


def with_minival(dataset, share=0.3):
    splits = {**dataset.model_dump()["splits"], "minival": {"num_shards": 1}}
    return changed(dataset, splits=splits, minival_share=share)


def test_a_minival_and_the_rest_share_no_image_and_stay_where_they_are(dataset):
    names = {
        split: set(source_index(with_minival(dataset), split, images(300))["name"].to_pylist())
        for split in ("train", "minival")
    }
    assert names["train"] | names["minival"] == {entry.name for entry, _ in images(300)}
    assert not names["train"] & names["minival"]
    assert 60 <= len(names["minival"]) <= 120
    fewer = set(source_index(with_minival(dataset), "minival", images(200))["name"].to_pylist())
    assert fewer <= names["minival"]
    larger = set(source_index(with_minival(dataset, 0.4), "minival", images(300))["name"].to_pylist())
    assert names["minival"] < larger
    assert len(source_index(with_minival(dataset), "test", images(300))) == 300


def test_labels_may_be_missing_and_several(dataset):
    some = [(entry, None if i == 4 else label) for i, (entry, label) in enumerate(images())]
    table = source_index(dataset, "train", some, shuffle=False)
    assert table["label"].to_pylist()[3:6] == [0, None, 2]
    many = changed(dataset, source="table", multi_label=True)
    labels = [[2, 0, 2], [], None, [1]]
    table = source_index(many, "train", zip((entry for entry, _ in images()), labels, strict=False), shuffle=False)
    assert table["labels"].to_pylist() == [[0, 2], [], None, [1]]


def test_another_number_of_images_than_expected_is_named_also_where_a_minival_is_cut(dataset):
    splits = {**with_minival(dataset).model_dump()["splits"], "train": {"num_shards": 1, "samples": 30}}
    for split in ("train", "minival"):
        dataset = changed(with_minival(dataset), splits=splits)
        assert len(source_index(dataset, split, images(30))) < 30
        with pytest.raises(ValueError, match="split train has 33 images, expected samples = 30"):
            source_index(dataset, split, images(33))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((Entry("0/003.jpg", "b.tar", 0, 1), 0), "split train has image '0/003.jpg' more than once"),
        ((Entry("x.jpg", "b.tar", 0, 1), 3), r"b\.tar: label of 'x\.jpg' is 3, expected 0 to 2"),
        ((Entry("x.jpg", "b.tar", 0, 1), -1), r"b\.tar: label of 'x\.jpg' is -1, expected 0 to 2"),
        ((Entry("\udcff.jpg", "b.tar", 0, 1), 0), r"file name '\\udcff\.jpg' is not UTF-8"),
    ],
)
def test_what_cannot_be_is_named(dataset, extra, message):
    with pytest.raises(ValueError, match=message):
        source_index(dataset, "train", [*images(), extra])


def test_a_class_without_training_images_is_named_and_one_without_test_images_is_not(dataset):
    some = [image for image in images() if image[1] == 1]
    with pytest.raises(ValueError, match="split train has no image of class '0' and 1 more"):
        source_index(dataset, "train", some)
    assert len(source_index(dataset, "test", some)) == 10


def test_clusters_stay_with_their_images_and_leave_the_order_alone(dataset):
    named = [(entry, label, [f"p{i // 3}", "all"]) for i, (entry, label) in enumerate(images())]
    table = source_index(dataset, "train", named)
    assert table.drop_columns("cluster").equals(source_index(dataset, "train", images()))
    by_name = {entry.name: sorted(names) for entry, _, names in named}
    assert table["cluster"].to_pylist() == [by_name[name] for name in table["name"].to_pylist()]
    assert table["cluster"].type == pa.list_(pa.string())
    unnamed = [(entry, label, None) for entry, label in images()]
    assert source_index(dataset, "train", unnamed).equals(source_index(dataset, "train", images()))


@pytest.mark.parametrize("missing", [None, (), ("",)])
def test_an_image_without_a_cluster_among_others_that_have_one_is_named(dataset, missing):
    named = [(entry, label, missing if i == 4 else ["a"]) for i, (entry, label) in enumerate(images())]
    with pytest.raises(ValueError, match=r"a\.tar: cluster of '1/004\.jpg' is .*, expected at least one name"):
        source_index(dataset, "train", named)
