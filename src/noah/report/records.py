"""What the arms of a backbone predicted on the same images: prediction records joined by key, as arrays of values."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from noah.files import read_parquet, reading
from noah.report.clusters import read_clusters
from noah.report.pseudo_values import map_values

_COLUMNS = {"top1": ["key", "label", "top5"], "map": ["key", "labels", "scores"]}


@dataclass(frozen=True)
class Predicted:
    """Every finished seed of every arm of one backbone."""

    seeds: dict[str, list[int]]
    """Arm -> finished seeds."""
    values: dict[str, np.ndarray]
    """Arm -> float64 (S, images): the mean over images is the score in percent."""
    clusters: list[tuple[str, ...]] | None
    """For each image the names of its sources; None where the records hold none."""
    chance: float
    """The score in percent of a guess that knows the labels' shares and no image."""


def read_predicted(score: str, files: dict[str, dict[int, Path]]) -> Predicted:
    """Join the records of a backbone.

    Args:
        score: `top1` or `map`.
        files: Arm -> finished seed -> predictions.parquet; at least one in all.

    Raises:
        ValueError: A file is missing or broken, or has other keys or labels than the first: they are not of the same
            images.
    """
    reference = first = named = clusters = None
    values: dict[str, list[np.ndarray]] = {}
    for arm, of_seed in files.items():
        for path in of_seed.values():
            records = _read(path, score)
            if reference is None:
                reference, first = records, path
            _expect_same(path, records, first, reference)
            found = read_clusters(path)
            if clusters is None:
                named, clusters = path, found
            elif found is not None and not found.loc[clusters.index].equals(clusters):
                raise ValueError(f"{path}: other clusters than in {named}, expected the same sources of every image")
            with reading(path):
                values.setdefault(arm, []).append(_MEASURES[score](records))
    return Predicted(
        {arm: list(of_seed) for arm, of_seed in files.items() if of_seed},
        {arm: np.stack(of_seed) for arm, of_seed in values.items()},
        None if clusters is None else clusters.loc[reference.index].tolist(),
        _chance(score, reference),
    )


def _read(path: Path, score: str) -> pd.DataFrame:
    """Column truth (a label, or a tuple of labels) and what was predicted, by key, in the order of keys."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file, though the run was collected: collect again")
    try:
        with reading(path):
            records = read_parquet(path, _COLUMNS[score]).to_pandas().set_index("key").sort_index()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{path}: not prediction records: {' '.join(str(error).split())[:300]}") from None
    if score == "top1":
        return records.rename(columns={"label": "truth"})
    return records.assign(truth=[tuple(labels) for labels in records.pop("labels")])


def _expect_same(path: Path, records: pd.DataFrame, first: Path, reference: pd.DataFrame) -> None:
    if not records.index.is_unique:
        raise ValueError(f"{path}: key '{records.index[records.index.duplicated()][0]}' is recorded more than once")
    if not records.index.equals(reference.index):
        odd = records.index.symmetric_difference(reference.index)
        example = f", for example '{odd[0]}' is in one only" if len(odd) else ""
        raise ValueError(
            f"{path}: keys differ between runs: {len(records)} records, {len(reference)} in {first}{example}"
        )
    different = (records["truth"] != reference["truth"]).to_numpy()
    if different.any():
        key = reference.index[different][0]
        raise ValueError(f"{path}: labels differ between runs, for example of key '{key}' from {first}")


def _right(records: pd.DataFrame) -> np.ndarray:
    best = np.stack(records["top5"].to_numpy())[:, 0]
    return 100.0 * (best == records["truth"].to_numpy())


def _pseudo_values(records: pd.DataFrame) -> np.ndarray:
    scores = np.stack(records["scores"].to_numpy())
    return map_values(scores, targets_of(records["truth"], scores.shape[1]))


_MEASURES = {"top1": _right, "map": _pseudo_values}


def targets_of(labels: pd.Series, num_classes: int) -> np.ndarray:
    """bool (images, M) from tuples of class numbers."""
    targets = np.zeros((len(labels), num_classes), bool)
    for image, own in enumerate(labels):
        targets[image, list(own)] = True
    return targets


def _chance(score: str, records: pd.DataFrame) -> float:
    """Top-1: always the most frequent class. mAP: the mean share of a class's images, which is a random ranking's."""
    counts = records["truth"].explode().value_counts()
    return 100 * float(counts.max() if score == "top1" else counts.mean()) / len(records)
