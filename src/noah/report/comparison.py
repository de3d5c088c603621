"""The rows of the comparison: per backbone, what each arm reached, what it costs and how the arms differ."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa

from noah.backbones import BACKBONES, BASELINE_HEAD
from noah.config import BackboneSpec, Run, Study
from noah.files import read_parquet, reading
from noah.report.collect import COLUMNS, run_folder
from noah.report.stats import Difference, map_difference, paired_correct, paired_scores, top1_difference

PUBLISHED_ON = "ImageNet"
"""Where the numbers of config/published/*.csv were measured."""
SCORES = {"top1": "top-1", "map": "mAP"}
"""What `Dataset.score` is called."""

_MEASURES = {"top1": (paired_correct, top1_difference), "map": (paired_scores, map_difference)}
_RECORDS = {"top1": ["key", "label", "top5"], "map": ["key", "labels", "scores"]}
_PUBLISHED_NOAH = {
    "score": "softmax",
    "split_groups": True,
    "split_key_value": True,
    "kernel_size": 1,
    "merge": "sum",
}
_NAMES = ("backbone", "published_name")
_PUBLISHED_COLUMNS = ("backbone", "width", "published_name", "num_heads", "key_ratio", "top1_baseline", "top1_noah")


@dataclass(frozen=True)
class ArmResult:
    """One arm of a row. Seeds without a finished run are left out of every metric."""

    expected_seeds: tuple[int, ...]
    score: str
    """Which metric says how good it is: `top1` or `map`."""
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    """Metric -> seed -> value, as in long.parquet."""
    cost: dict[str, float] = field(default_factory=dict)
    """Metric -> value; empty where it was not measured."""

    @property
    def seeds(self) -> list[int]:
        return sorted(self.metrics.get(self.score, {}))


@dataclass(frozen=True)
class PairResult:
    """One compare pair of a row."""

    expected_seeds: tuple[int, ...]
    seeds: tuple[int, ...] = ()
    """Those that both arms finished."""
    difference: Difference | None = None
    """None where no seed has both arms."""
    minival_delta: float | None = None
    """Mean over the seeds of the differences in the minival's score, percentage points."""
    published_delta: float | None = None
    """The paper's, on ImageNet; None unless the pair is the paper's own: its baseline head and its NOAH."""
    published_name: str | None = None


@dataclass(frozen=True)
class Row:
    """A backbone on a dataset with a recipe. An arm or pair that does not exist for the family is None."""

    dataset: str
    score: str
    """Of the dataset: `top1` or `map`."""
    recipe: str
    backbone: BackboneSpec
    arms: dict[str, ArmResult | None]
    pairs: dict[tuple[str, str], PairResult | None]

    @property
    def label(self) -> str:
        """The backbone with its changes, without the width."""
        return self.backbone.slug.rpartition("-w")[0]


def compare(study: Study) -> list[Row]:
    """The rows in the order of the study's datasets and of the paper's backbones; reads long.parquet and predictions.

    Raises:
        ValueError: long.parquet or the published numbers are missing or broken, or the arms of a pair were not
            predicted on the same images.
    """
    path = study.results / "long.parquet"
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected the output of `noah collect`")
    values = _read_long(path)
    metrics, costs = {}, {}
    for entry in values[values["seed"].notna()].itertuples():
        name = (entry.dataset, entry.recipe, entry.backbone, entry.arm)
        metrics.setdefault(name, {}).setdefault(entry.metric, {})[int(entry.seed)] = entry.value
    for entry in values[values["seed"].isna()].itertuples():
        costs.setdefault((entry.dataset, entry.backbone, entry.arm), {})[entry.metric] = entry.value

    runs: dict[tuple, dict[str, dict[int, Run]]] = {}
    for run in study.runs:
        name = (run.dataset.name, run.recipe_name, run.backbone)
        runs.setdefault(name, {}).setdefault(run.arm, {})[run.seed] = run
    published = _read_published(study)
    rows = []
    for dataset, recipe, backbone in sorted(runs, key=_order(study)):
        of_arm, score = runs[dataset, recipe, backbone], study.datasets[dataset].score
        arms = {
            arm: ArmResult(
                tuple(of_arm[arm]),
                score,
                metrics.get((dataset, recipe, backbone.slug, arm), {}),
                costs.get((dataset, backbone.slug, arm), {}),
            )
            if arm in of_arm
            else None
            for arm in study.spec.arms
        }
        pairs = {
            (one, other): _compare_pair(
                study,
                (of_arm[one], of_arm[other]),
                (arms[one], arms[other]),
                published.get((backbone.name, backbone.width)) if score == "top1" else None,
            )
            if one in of_arm and other in of_arm
            else None
            for one, other in study.spec.compare
        }
        rows.append(Row(dataset, score, recipe, backbone, arms, pairs))
    return rows


def _read_long(path: Path) -> pd.DataFrame:
    """The rows of long.parquet that have a value; ValueError names the file where it is another table."""
    try:
        with reading(path):
            long = read_parquet(path).to_pandas()[list(COLUMNS)].astype(COLUMNS)
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{path}: not the output of `noah collect`: {' '.join(str(error).split())[:300]}") from None
    return long[(long["status"] == "ok") & long["value"].notna()]


def reference_arm(study: Study) -> str:
    """The arm that speeds are given relative to: where the first pair starts, else the first arm."""
    return study.spec.compare[0][0] if study.spec.compare else next(iter(study.spec.arms))


def section(study: Study, row: Row) -> tuple[str, ...]:
    """What rows of one grid share: the dataset, and the recipe where a backbone was trained with several."""
    return (row.dataset, row.recipe) if _recipes_repeat(study, row.dataset) else (row.dataset,)


def _recipes_repeat(study: Study, dataset: str) -> bool:
    trained = {(run.backbone.slug, run.recipe_name) for run in study.runs if run.dataset.name == dataset}
    return len(trained) > len({backbone for backbone, _ in trained})


def _order(study: Study) -> Callable[[tuple], tuple]:
    """Datasets as in the study, backbones and widths as in the paper's tables, then what the paper does not have."""
    names = list(BACKBONES)
    recipes = list(dict.fromkeys(run.recipe_name for run in study.runs))
    repeat = {dataset: _recipes_repeat(study, dataset) for dataset in study.spec.datasets}

    def key(name: tuple[str, str, BackboneSpec]) -> tuple:
        dataset, recipe, backbone = name
        place = (names.index(backbone.name), -backbone.width) if backbone.name in names else (len(names), 0)
        return (study.spec.datasets.index(dataset), recipes.index(recipe) if repeat[dataset] else 0, *place)

    return key


def _compare_pair(
    study: Study, runs: tuple[dict[int, Run], ...], arms: tuple[ArmResult, ...], published: dict | None
) -> PairResult:
    expected = tuple(seed for seed in runs[0] if seed in runs[1])
    seeds = tuple(seed for seed in expected if all(seed in arm.seeds for arm in arms))
    difference = minival_delta = None
    score = arms[0].score
    if seeds:
        try:
            join, measure = _MEASURES[score]
            records = [[_records(study, of[seed]) for seed in seeds] for of in runs]
            with reading(run_folder(study, runs[0][seeds[0]]) / "predictions.parquet, or the other arm's"):
                difference = measure(*join(*records))
        except ValueError as error:
            keys = " and ".join(run_folder(study, of[seeds[0]]).parent.as_posix() for of in runs)
            raise ValueError(f"{keys}: {error}") from None
        minival = [arm.metrics.get(f"minival_{score}", {}) for arm in arms]
        if all(seed in scores for seed in seeds for scores in minival):
            minival_delta = sum(minival[1][seed] - minival[0][seed] for seed in seeds) / len(seeds)
    one, other = (next(iter(of.values())) for of in runs)
    if published is None or not _is_papers_pair(one, other, published):
        return PairResult(expected, seeds, difference, minival_delta)
    delta = round(published["top1_noah"] - published["top1_baseline"], 2)
    return PairResult(expected, seeds, difference, minival_delta, delta, published["published_name"])


def _records(study: Study, run: Run) -> pd.DataFrame:
    path = run_folder(study, run) / "predictions.parquet"
    if not path.is_file():
        raise ValueError(f"{path}: no such file, though the run was collected: collect again")
    try:
        with reading(path):
            return read_parquet(path, _RECORDS[run.dataset.score]).to_pandas()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{path}: not prediction records: {' '.join(str(error).split())[:300]}") from None


def _is_papers_pair(one: Run, other: Run, published: dict) -> bool:
    """Whether `one` has the paper's baseline head and `other` its NOAH, with its N and r (init and dropout aside)."""
    head = other.head.kwargs
    return (
        one.head.name == BASELINE_HEAD.get(one.backbone.family)
        and other.head.name == "noah"
        and (head["num_heads"], head["key_ratio"]) == (published["num_heads"], published["key_ratio"])
        and all(head.get(field, value) == value for field, value in _PUBLISHED_NOAH.items())
    )


def _read_published(study: Study) -> dict[tuple[str, float], dict]:
    """The paper's numbers by backbone and width; empty where the study names none."""
    if study.spec.published is None:
        return {}
    path = _config_dir(study) / "published" / f"{study.spec.published}.csv"
    if not path.is_file():
        raise ValueError(f"{path}: no such file, which {study.path} names as its published numbers")
    try:
        table = pd.read_csv(path)
        numbers = [column for column in _PUBLISHED_COLUMNS if column in table and column not in _NAMES]
        table = table.astype(dict.fromkeys(numbers, "float64"))
    except (ValueError, TypeError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path}: not the paper's numbers: {' '.join(str(error).split())[:300]}") from None
    absent = [column for column in _PUBLISHED_COLUMNS if column not in table.columns]
    if absent:
        raise ValueError(f"{path}: missing column '{absent[0]}', expected {', '.join(_PUBLISHED_COLUMNS)}")
    return {(row["backbone"], row["width"]): row for row in table.to_dict("records")}


def _config_dir(study: Study) -> Path:
    return study.path.parent.parent
