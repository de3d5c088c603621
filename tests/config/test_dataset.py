"""Fields of a dataset that only some sources take, and what they do to the hash of a run."""

import pytest

from noah.config import Dataset, load_study

FOLDER = {
    "name": "mine",
    "source": "folder",
    "root": "raw",
    "classes": 3,
    "image_size": 24,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.2, 0.2, 0.2),
    "splits": {name: {"num_shards": 1, "raw": {"images": name}} for name in ("train", "test")},
}


def test_a_pattern_for_clusters_is_kept_as_it_is_written():
    assert Dataset(**FOLDER, cluster="^[^/]+/(patient[0-9]+)_").cluster == "^[^/]+/(patient[0-9]+)_"
    assert Dataset(**FOLDER).cluster is None


@pytest.mark.parametrize("pattern", ["(patient", "[", "*", "a{9999999999999}"])
def test_a_pattern_for_clusters_that_does_not_compile_is_refused(pattern):
    with pytest.raises(ValueError, match="expected a regular expression: "):
        Dataset(**FOLDER, cluster=pattern)


def test_an_empty_pattern_for_clusters_is_refused():
    with pytest.raises(ValueError, match="expected a regular expression, got an empty text"):
        Dataset(**FOLDER, cluster="")


@pytest.mark.parametrize("source", ["imagenet", "table", "cifar", "inaturalist", "webdataset"])
def test_a_pattern_for_clusters_is_refused_by_sources_that_take_none(source):
    with pytest.raises(ValueError, match=f"cluster is 'a', expected none for source {source}: only source folder"):
        Dataset(**{**FOLDER, "source": source}, cluster="a")


def test_a_dataset_without_a_pattern_for_clusters_dumps_none_and_keeps_the_hash_of_its_runs(project):
    assert "cluster" not in Dataset(**FOLDER).model_dump()
    assert "cluster" in Dataset(**FOLDER, cluster="a").model_dump()
    run = load_study("tiny").runs[0]
    assert "cluster" not in run.to_yaml()
    named = run.model_copy(update={"dataset": Dataset(**FOLDER, cluster="a")})
    assert named.hash != run.model_copy(update={"dataset": Dataset(**FOLDER)}).hash
