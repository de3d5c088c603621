"""What every arm reached and costs: one row per dataset, recipe, backbone and arm, from the long table."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from noah.config import Study
from noah.report.collect import COST_METRICS, RUN_METRICS
from noah.report.rows import Row, reference_arm

NAME = ["dataset", "recipe", "backbone", "arm"]
COLLAPSE = 10.0
"""Points below the median of its arm at which a run counts as collapsed."""
ABOVE_CHANCE = 1.1
"""What is less than so many times a guess is no better than one."""


def arms_of(study: Study, rows: Iterable[Row], long: pd.DataFrame, comparison: pd.DataFrame) -> pd.DataFrame:
    """The arms in the order of rows and study.

    Args:
        study: The study.
        rows: Of `rows_of`.
        long: Of `read_long`.
        comparison: Of `read_comparison`, for what a guess would reach.

    Returns:
        NAME, width, score, seeds, seeds_expected, status (ok, partial, missing), collapsed, at_chance; per metric of
        the runs `…_mean`, `…_sd`, `…_iqm` (interquartile mean, Agarwal et al. 2021) and `…_per_seed`; the costs, and
        images_per_s_ratio to the reference arm.
    """
    frame = pd.DataFrame(
        [
            {
                **dict(zip(NAME, (*row.name, arm), strict=True)),
                "width": row.backbone.width,
                "score": row.score,
                "seeds_expected": ";".join(map(str, seeds)),
            }
            for row in rows
            for arm, seeds in row.arms.items()
        ]
    )
    frame = frame.merge(_summaries(study, long), how="left", on=NAME)
    frame = frame.merge(_costs(long), how="left", on=["dataset", "backbone", "arm"])
    frame["status"] = frame.apply(_status, axis=1)
    frame["collapsed"] = frame["collapsed"].eq(True)
    chance = frame["dataset"].map(comparison.groupby("dataset")["chance"].max()).astype("float64")
    frame["at_chance"] = frame.apply(lambda arm: arm[f"{arm['score']}_mean"], axis=1) < ABOVE_CHANCE * chance
    speed, rows = frame.set_index(NAME)["images_per_s"], frame[NAME[:3]].itertuples(index=False, name=None)
    reference = [speed.get((*row, reference_arm(study))) for row in rows]
    frame["images_per_s_ratio"] = frame["images_per_s"] / pd.Series(reference, frame.index, dtype="float64")
    return frame


def run_metrics(study: Study) -> tuple[str, ...]:
    """Of all datasets of the study, so that its tables have one set of columns."""
    scores = dict.fromkeys(dataset.score for dataset in study.datasets.values())
    return tuple(dict.fromkeys(metric for score in scores for metric in RUN_METRICS[score]))


def _summaries(study: Study, long: pd.DataFrame) -> pd.DataFrame:
    """One row per arm; a metric that no run has is a column of nothing."""
    metrics = run_metrics(study)
    runs = long[long["seed"].notna() & long["metric"].isin(metrics)].sort_values("seed")
    summary = runs.groupby([*NAME, "metric"], sort=False)["value"].agg(
        mean="mean", sd="std", iqm=_iqm, per_seed=_listed
    )
    wide = summary.unstack("metric").swaplevel(axis=1)
    wide.columns = [f"{metric}_{statistic}" for metric, statistic in wide.columns]
    wide = wide.reindex(columns=[f"{m}_{s}" for m in metrics for s in ("mean", "sd", "iqm", "per_seed")])
    scored = runs[runs["metric"].isin({dataset.score for dataset in study.datasets.values()})].groupby(NAME, sort=False)
    wide["seeds"] = scored["seed"].agg(_listed)
    wide["collapsed"] = scored["value"].agg(lambda values: values.median() - values.min() > COLLAPSE)
    return wide.reset_index()


def _costs(long: pd.DataFrame) -> pd.DataFrame:
    costs = long[long["seed"].isna()]
    wide = costs.pivot(index=["dataset", "backbone", "arm"], columns="metric", values="value")
    return wide.reindex(columns=list(COST_METRICS)).reset_index()


def _status(arm: pd.Series) -> str:
    found, expected = (set(str(arm[name]).split(";")) for name in ("seeds", "seeds_expected"))
    if pd.isna(arm["seeds"]):
        return "missing"
    return "ok" if expected <= found else "partial"


def _iqm(values: pd.Series) -> float:
    """Mean of the middle half; of few runs those at its edges count in part, so that it is not the mean of three."""
    weights = np.diff(np.clip(np.linspace(0, 1, len(values) + 1), 0.25, 0.75)) / 0.5
    return float(np.sort(values.to_numpy()) @ weights)


def _listed(values: pd.Series) -> str:
    return ";".join(str(value) for value in values)
