"""What several tests of the data layer do with a dataset."""

from pathlib import Path

from noah.config import Dataset
from noah.data.shards import index_split, write_job, write_manifest


def changed(dataset: Dataset, **fields) -> Dataset:
    """The dataset with other fields, validated again."""
    return Dataset.model_validate({**dataset.model_dump(exclude_none=True), **fields})


def build(dataset: Dataset, split: str, folder: Path, jobs=None) -> Path:
    """Index, shard and manifest of one split."""
    index_split(dataset, split, folder)
    for job in range(dataset.num_jobs(split)) if jobs is None else jobs:
        write_job(dataset, split, job, folder)
    write_manifest(dataset, split, folder)
    return folder
