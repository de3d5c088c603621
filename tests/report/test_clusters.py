import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noah.report.clusters import read_clusters

KEYS = ["00000000", "00000002", "00000005"]
NAMES = [["7"], ["3", "12"], ["7"]]
KIND = pa.list_(pa.string())


def records(folder, clusters=None, **columns):
    path = folder / "predictions.parquet"
    named = {} if clusters is None else {"cluster": clusters}
    pq.write_table(pa.table({"key": KEYS, "label": [0, 1, 2], **named, **columns}), path)
    return path


def test_every_key_has_a_tuple_of_names(tmp_path):
    found = read_clusters(records(tmp_path, pa.array(NAMES, KIND)))
    assert found.index.tolist() == KEYS
    assert found.index.name == "key"
    assert found.tolist() == [("7",), ("3", "12"), ("7",)]


def test_records_without_clusters_are_none(tmp_path):
    assert read_clusters(records(tmp_path)) is None


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (pa.array(["a", "b", "c"]), "type of column 'cluster': got 'string', expected 'list<item: string>'"),
        (pa.array([[1], [2], [3]]), "type of column 'cluster': got 'list<element: int64>'"),
        (pa.array([["a"], None, ["b"]], KIND), "cluster of key '00000002' is None, expected at least one name"),
        (pa.array([["a"], ["b"], []], KIND), r"cluster of key '00000005' is \[\], expected"),
        (pa.array([["a", None], ["b"], ["c"]], KIND), r"cluster of key '00000000' is \['a', None\], expected"),
        (pa.array([["a", ""], ["b"], ["c"]], KIND), r"cluster of key '00000000' is \['a', ''\], expected"),
    ],
)
def test_clusters_that_are_no_names_are_refused_with_the_file(tmp_path, clusters, message):
    path = records(tmp_path, clusters)
    with pytest.raises(ValueError, match=rf"^[^\n]*predictions\.parquet: {message}"):
        read_clusters(path)


def test_a_file_that_holds_no_records_is_named(tmp_path):
    path = tmp_path / "predictions.parquet"
    with pytest.raises(ValueError, match=r"predictions\.parquet: no such file"):
        read_clusters(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"predictions\.parquet: not prediction records"):
        read_clusters(path)
    pq.write_table(pa.table({"cluster": pa.array(NAMES, KIND)}), path)
    with pytest.raises(ValueError, match=r"predictions\.parquet: columns 'key': got 0, expected 1"):
        read_clusters(path)
    twice = pa.Table.from_arrays([pa.array(KEYS), *[pa.array(NAMES, KIND)] * 2], ["key", "cluster", "cluster"])
    pq.write_table(twice, path)
    with pytest.raises(ValueError, match=r"predictions\.parquet: not prediction records: "):
        read_clusters(path)


def test_reading_clusters_loads_no_torch():
    code = "import sys, noah.report.clusters; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
