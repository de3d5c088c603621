import pytest

from noah.data.manifest import read_manifest
from noah.files import write_json

MANIFEST = {
    "dataset": "photos",
    "split": "test",
    "samples": 3,
    "classes": {"cat": 3, "dog": 0},
    "quarantine_share": 0.25,
    "source_sha256": "0" * 64,
    "index_sha256": "1" * 64,
    "shards": [
        {"name": "photos-test-000000.tar", "samples": 3, "bytes": 9000, "sha256": "2" * 64},
        {"name": "photos-test-000001.tar", "samples": 0, "bytes": 1024, "sha256": "3" * 64},
    ],
}


def test_a_manifest_is_read_as_it_was_written_also_with_an_empty_shard(tmp_path):
    write_json(tmp_path / "manifest.json", MANIFEST)
    assert read_manifest(tmp_path / "manifest.json") == MANIFEST


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quarantine_share": 1.5}, "quarantine_share: got 1.5"),
        ({"samples": 0}, "samples: got 0"),
        ({"shards": []}, "shards"),
        ({"index_sha256": "x"}, "index_sha256: got 'x'"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"shards": [{**MANIFEST["shards"][0], "name": "../../x.tar"}]}, r"shards\.0\.name: got '\.\./\.\./x\.tar'"),
    ],
)
def test_the_first_wrong_field_is_named(tmp_path, changes, message):
    write_json(tmp_path / "manifest.json", {**MANIFEST, **changes})
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "manifest.json")
