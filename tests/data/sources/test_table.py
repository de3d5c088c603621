"""Tables of images as users write them: CSV and Parquet, one label or several."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits_builder import build, changed
from replica_images import digit, tar_bytes, write_files

from noah.config import Dataset
from noah.data.reader import Shards
from noah.data.sources import table
from noah.data.verify import verify

CLASSES = ("cat", "dog", "emu")
LABELS = ["cat", "dog", "emu", "dog", "cat", "emu"]
PATHS = [f"images/{number}.jpg" for number in range(len(LABELS))]
NUMBERS = dict(zip(PATHS, map(CLASSES.index, LABELS), strict=True))


def dataset_of(root: Path, name: str, test: dict | None = None, raw: dict | None = None, **fields) -> Dataset:
    train = {"num_shards": 1, "raw": {"table": name, **(raw or {})}}
    splits = {"train": train, "test": {"num_shards": 1, "raw": test or {"table": "test.csv"}}}
    plain = {"name": "mine", "source": "table", "root": str(root), "classes": CLASSES, "splits": splits}
    return Dataset(**{**plain, "image_size": 24, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), **fields})


def csv_of(rows, header="path,label") -> bytes:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows), ""]).encode()


def found(dataset: Dataset, split: str = "train") -> dict:
    index = table.index(dataset, split)
    column = "labels" if dataset.multi_label else "label"
    return dict(zip(index["name"].to_pylist(), index[column].to_pylist(), strict=True))


@pytest.fixture
def root(tmp_path) -> Path:
    root = write_files(tmp_path / "raw", {path: digit(number) for number, path in enumerate(PATHS)})
    return write_files(root, {"all.csv": csv_of(zip(PATHS, LABELS, strict=True))})


def test_a_table_becomes_shards(root, tmp_path):
    dataset = dataset_of(root, "all.csv")
    out = build(dataset, "train", tmp_path / "shards")
    assert verify(dataset, "train", out)["samples"] == len(PATHS)
    shards = Shards(out)
    for i, (name, label) in enumerate(found(dataset).items()):
        assert (shards.read(i), shards.labels[i]) == ((root / name).read_bytes(), label)
        assert label == NUMBERS[name]


def test_class_names_and_class_numbers_say_the_same_in_csv_and_parquet(root):
    numbers = list(NUMBERS.values())
    write_files(root, {"numbers.csv": csv_of(zip(PATHS, numbers, strict=True))})
    for name, labels in {"names": LABELS, "integers": numbers, "categories": pd.Categorical(LABELS)}.items():
        pd.DataFrame({"path": PATHS, "label": labels, "other": 1.5}).to_parquet(root / f"{name}.parquet")
    # Excel puts a byte order mark before UTF-8.
    write_files(root, {"excel.csv": b"\xef\xbb\xbf" + (root / "all.csv").read_bytes().replace(b"\n", b"\r\n")})
    for name in ("all.csv", "excel.csv", "numbers.csv", "names.parquet", "integers.parquet", "categories.parquet"):
        assert found(dataset_of(root, name)) == NUMBERS, name


def test_a_missing_label_is_kept_as_missing(root):
    rows = zip([*PATHS, "images/extra.jpg"], [*LABELS, ""], strict=True)
    write_files(root, {"images/extra.jpg": digit(9), "gap.csv": csv_of(rows)})
    # Pandas makes whole numbers floats where one is missing.
    pd.DataFrame({"path": [*PATHS, "images/extra.jpg"], "label": [*NUMBERS.values(), None]}).to_parquet(
        root / "gap.parquet"
    )
    for name in ("gap.csv", "gap.parquet"):
        assert found(dataset_of(root, name)) == {**NUMBERS, "images/extra.jpg": None}


def test_an_image_without_a_label_is_quarantined(root, tmp_path):
    write_files(root, {"images/extra.jpg": digit(9)})
    with open(root / "all.csv", "a") as file:
        file.write("images/extra.jpg,\n")
    dataset = dataset_of(root, "all.csv", allow_bad=0.2)
    out = build(dataset, "train", tmp_path / "shards")
    assert verify(dataset, "train", out)["samples"] == len(PATHS)
    assert "images/extra.jpg,has no label" in (out / "quarantine.csv").read_text()


def test_several_labels_become_shards(root, tmp_path):
    rows = zip(PATHS, ["cat;dog", "emu", "dog", ";", "cat", "emu;cat"], strict=True)
    write_files(root, {"many.csv": csv_of(rows, "path,labels")})
    dataset = dataset_of(root, "many.csv", multi_label=True)
    out = build(dataset, "train", tmp_path / "shards")
    assert verify(dataset, "train", out)["samples"] == len(PATHS)
    labels = pq.read_table(out / "index.parquet")["labels"].to_pylist()
    assert labels == table.index(dataset, "train")["labels"].to_pylist()
    assert sorted(labels) == [[], [0], [0, 1], [0, 2], [1], [2]]


def test_several_labels_come_from_a_list_or_from_text_with_semicolons(root):
    text = ["cat;dog", "emu", " dog ; cat ;", ";", "", "2;0"]
    expected = dict(zip(PATHS, [[0, 1], [2], [0, 1], [], None, [0, 2]], strict=True))
    lists = pa.array([["cat", "dog"], ["emu"], ["dog", "cat"], [], None, ["emu", "cat"]])
    numbers = pa.array([[1, 0], [2], [0, 1], [], None, [0, 2]])
    write_files(root, {"text.csv": csv_of(zip(PATHS, text, strict=True), "path,labels")})
    pq.write_table(pa.table({"path": PATHS, "labels": lists}), root / "lists.parquet")
    pq.write_table(pa.table({"path": PATHS, "labels": numbers}), root / "numbers.parquet")
    for name in ("text.csv", "lists.parquet", "numbers.parquet"):
        assert found(dataset_of(root, name, multi_label=True)) == expected, name


def test_a_column_split_divides_one_table(root):
    parts = ["train", "train", "train", "val", "val", "test"]
    write_files(root, {"all.csv": csv_of(zip(PATHS, LABELS, parts, strict=True), "path,label,split")})
    dataset = dataset_of(root, "all.csv", test={"table": "all.csv", "rows": "val"})
    assert set(found(dataset)) == set(PATHS[:3])
    assert set(found(dataset, "test")) == set(PATHS[3:5])
    with pytest.raises(
        ValueError, match=r"no row has split 'dev', got 'test', 'train', 'val': splits\.test\.raw\.rows"
    ):
        found(dataset_of(root, "all.csv", test={"table": "all.csv", "rows": "dev"}), "test")


def test_one_table_for_two_splits_needs_a_column_split(root):
    with pytest.raises(ValueError, match="no column 'split', expected one: it is the table of train and test"):
        found(dataset_of(root, "all.csv", test={"table": "all.csv"}))
    with pytest.raises(ValueError, match=r"no column 'split', expected one: splits\.train\.raw\.rows is 'val'"):
        found(dataset_of(root, "all.csv", raw={"rows": "val"}))


def test_the_paths_may_lie_in_a_folder_or_an_archive(root):
    inner = {path.removeprefix("images/"): (root / path).read_bytes() for path in PATHS}
    write_files(root, {"inner.csv": csv_of(zip(inner, LABELS, strict=True)), "all.tar": tar_bytes(inner)})
    expected = {path.removeprefix("images/"): number for path, number in NUMBERS.items()}
    for images in ("images", "all.tar"):
        dataset = dataset_of(root, "inner.csv", raw={"images": images})
        assert found(dataset) == expected
        assert table.open_source(dataset, "train")(table.index(dataset, "train").to_pylist()[0])[0] == "jpg"


BAD_ROWS = {
    "unknown class": ("images/0.jpg,cow", r"row 7: label is 'cow', expected a class name or a number from 0 to 2"),
    "number too large": ("images/0.jpg,3", r"row 7: label is '3', expected a class name or a number from 0 to 2"),
    "negative number": ("images/0.jpg,-1", r"row 7: label is '-1', expected"),
    "fraction": ("images/0.jpg,1.5", r"row 7: label is '1.5', expected"),
    "absolute path": ("/etc/passwd,cat", r"row 7: path is '/etc/passwd', expected a file below the root"),
    "path out of the root": ("../secret.jpg,cat", r"row 7: path is '\.\./secret\.jpg', expected a file below the root"),
    "no path": (",cat", r"row 7: path is '', expected a file below the root"),
    "row twice": ("./images/0.jpg,cat", r"split train has image 'images/0\.jpg' more than once"),
    "too many columns": ("images/0.jpg,cat,dog", r"not CSV in UTF-8: CSV parse error: Expected 2 columns, got 3"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named(root, case):
    row, message = BAD_ROWS[case]
    with open(root / "all.csv", "a") as file:
        file.write(f"{row}\n")
    with pytest.raises(ValueError, match=message) as caught:
        found(dataset_of(root, "all.csv"))
    assert "all.csv" in str(caught.value) or case == "row twice"


def test_missing_images_are_counted_and_the_first_are_named(root):
    gone = [f"images/gone{number}.jpg" for number in range(5)]
    write_files(root, {"all.csv": csv_of(zip([*PATHS, *gone], [*LABELS, *["cat"] * 5], strict=True))})
    with pytest.raises(ValueError, match=r"no such file below .*: row 7 'images/gone0\.jpg', .*gone2\.jpg' and 2 more"):
        found(dataset_of(root, "all.csv"))


def test_columns_that_are_missing_or_double_are_named(root):
    write_files(
        root, {"other.csv": csv_of([("a.jpg", "cat")], "file,label"), "twice.csv": csv_of([], "path,label,label")}
    )
    with pytest.raises(ValueError, match=r"other\.csv: no column 'path', got file, label"):
        found(dataset_of(root, "other.csv"))
    with pytest.raises(ValueError, match=r"all\.csv: no column 'labels', got path, label"):
        found(dataset_of(root, "all.csv", multi_label=True))
    with pytest.raises(ValueError, match=r"twice\.csv: column 'label' is there twice"):
        found(dataset_of(root, "twice.csv"))


def test_a_file_that_is_no_table_is_named(root):
    write_files(
        root,
        {"all.xlsx": b"x", "bad.parquet": b"x", "latin.csv": "path,label\nimages/0.jpg,caf\u00e9".encode("latin-1")},
    )
    with pytest.raises(ValueError, match=r"all\.xlsx: got '\.xlsx', expected a \.csv or \.parquet"):
        found(dataset_of(root, "all.xlsx"))
    with pytest.raises(ValueError, match=r"bad\.parquet: not Parquet"):
        found(dataset_of(root, "bad.parquet"))
    with pytest.raises(ValueError, match=r"latin\.csv: not CSV in UTF-8"):
        found(dataset_of(root, "latin.csv"))
    with pytest.raises(ValueError, match=r"gone\.csv: no such file.*test\.csv: no such file"):
        table.fetch(dataset_of(root, "gone.csv"))


def test_a_text_that_is_one_class_by_name_and_another_by_number_is_refused(root):
    write_files(root, {"digits.csv": csv_of([("images/0.jpg", 1)])})
    with pytest.raises(ValueError, match="label is '1', which is the name of class 0 and the number of class '2'"):
        found(dataset_of(root, "digits.csv", classes=("1", "2", "3")))
    dataset = dataset_of(root, "digits.csv", test={"table": "digits.csv"}, raw={"table": "all.csv"})
    assert found(changed(dataset, classes=("0", "1", "2")), "test") == {"images/0.jpg": 1}


def clusters_of(dataset: Dataset, split: str = "train") -> dict:
    index = table.index(dataset, split)
    assert index["cluster"].type == pa.list_(pa.string())
    return dict(zip(index["name"].to_pylist(), index["cluster"].to_pylist(), strict=True))


def with_clusters(root: Path, clusters: list, name: str = "named.csv") -> Dataset:
    write_files(root, {name: csv_of(zip(PATHS, LABELS, clusters, strict=True), "path,label,cluster")})
    return dataset_of(root, name)


def test_a_column_cluster_is_read_as_text_with_one_name_or_several(root):
    written = ["007", "NA", "b; a;", " 7 ", "10;9", "a;a"]
    expected = [["007"], ["NA"], ["a", "b"], ["7"], ["10", "9"], ["a"]]
    assert clusters_of(with_clusters(root, written)) == dict(zip(PATHS, expected, strict=True))


def test_a_cluster_in_parquet_may_be_a_text_a_whole_number_or_a_list(root):
    texts, lists = ["a", "b;a", "7", "7", "a", "b"], [["a"], ["b", "a"], ["7"], ["7"], ["a"], ["b"]]
    frame = {"path": PATHS, "label": LABELS}
    pd.DataFrame({**frame, "cluster": texts}).to_parquet(root / "text.parquet")
    pd.DataFrame({**frame, "cluster": lists}).to_parquet(root / "lists.parquet")
    pd.DataFrame({**frame, "cluster": [3, 1, 2, 3, 1, 2]}).to_parquet(root / "numbers.parquet")
    expected = dict(zip(PATHS, [["a"], ["a", "b"], ["7"], ["7"], ["a"], ["b"]], strict=True))
    assert clusters_of(dataset_of(root, "text.parquet")) == expected
    assert clusters_of(dataset_of(root, "lists.parquet")) == expected
    assert list(clusters_of(dataset_of(root, "numbers.parquet")).values()).count(["3"]) == 2


def test_a_column_cluster_changes_neither_order_nor_labels_and_reaches_the_reader(root, tmp_path):
    dataset = with_clusters(root, ["x", "y", "x", "y", "z", "z;x"])
    index = table.index(dataset, "train")
    assert index.drop_columns("cluster").equals(table.index(dataset_of(root, "all.csv"), "train"))
    out = build(dataset, "train", tmp_path / "shards")
    verify(dataset, "train", out)
    assert Shards(out).clusters.to_pylist() == index["cluster"].to_pylist()


def test_without_the_column_no_file_knows_of_clusters(root, tmp_path):
    out = build(dataset_of(root, "all.csv"), "train", tmp_path / "shards")
    for name in ("source.parquet", "index.parquet"):
        assert "cluster" not in pq.read_schema(out / name).names
    assert Shards(out).clusters is None


@pytest.mark.parametrize("empty", ["", " ", ";"])
def test_an_empty_cluster_names_file_and_row(root, empty):
    with pytest.raises(ValueError, match=rf"named\.csv: row 3: cluster is '{empty}', expected a name"):
        table.index(with_clusters(root, ["a", "b", empty, "a", "b", "c"]), "train")


@pytest.mark.parametrize("value", [None, [], ["a", None], ["a", ""], True, 0.5, {"a": 1}])
def test_a_cluster_in_parquet_that_is_no_name_is_refused(root, value):
    kinds = {"path": PATHS[:1], "label": LABELS[:1], "cluster": pa.array([value])}
    pq.write_table(pa.table(kinds), root / "odd.parquet")
    with pytest.raises(ValueError, match=r"odd\.parquet: row 1: cluster is .*, expected a name"):
        table.index(dataset_of(root, "odd.parquet"), "train")


def test_rows_of_other_splits_need_no_cluster(root):
    rows = zip(PATHS, LABELS, ["train"] * 3 + ["test"] * 3, ["a", "b", "c", "", "", ""], strict=True)
    write_files(root, {"both.csv": csv_of(rows, "path,label,split,cluster")})
    dataset = dataset_of(root, "both.csv", test={"table": "both.csv"})
    assert clusters_of(dataset) == dict(zip(PATHS, [["a"], ["b"], ["c"]], strict=False))
    with pytest.raises(ValueError, match=r"both\.csv: row 4: cluster is ''"):
        table.index(dataset, "test")


def test_a_column_cluster_that_is_there_twice_is_named(root):
    write_files(root, {"twice.csv": csv_of([], "path,label,cluster,cluster")})
    with pytest.raises(ValueError, match=r"twice\.csv: column 'cluster' is there twice"):
        found(dataset_of(root, "twice.csv"))
