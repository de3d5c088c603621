"""What every arm reached and costs, as tables and CSV show it."""

import shutil

import numpy as np
import pandas as pd
import pytest
from finished_study import Finished, write_run
from shown import collected_and_compared

from noah.config import load_study
from noah.files import write_text
from noah.report.arms import arms_of, run_metrics
from noah.report.comparison_table import read_long
from noah.report.rows import rows_of

DEIT, MOBILE = "deit_tiny-d6-w0.5", "mobilenetv2-w0.35"


def arms(study) -> pd.DataFrame:
    comparison = collected_and_compared(study)
    return arms_of(study, rows_of(study), read_long(study), comparison)


def arm(study, backbone: str, name: str) -> pd.Series:
    found = arms(study)
    return found[(found.backbone == backbone) & (found.arm == name)].iloc[0]


def rescore(finished: Finished, name: str, shares: list[float]) -> None:
    """Replace the runs of an arm of MobileNetV2 by ones that are right so often."""
    for run in finished.study.runs:
        if (run.backbone.slug, run.arm) == (MOBILE, name):
            finished.right[MOBILE, name, run.seed] = write_run(finished.study, run, share=shares[run.seed])


def test_arms_come_in_the_order_of_rows_and_study_and_only_where_they_exist(finished):
    found = arms(finished.study)
    assert list(zip(found.backbone, found.arm, strict=True)) == [
        (MOBILE, "baseline"),
        (MOBILE, "noah"),
        (DEIT, "baseline"),
        (DEIT, "patch-gap"),
        (DEIT, "noah"),
    ]


def test_an_arm_has_mean_spread_and_each_seed_of_every_metric_and_its_costs(finished):
    found = arm(finished.study, MOBILE, "noah")
    scores = finished.values(MOBILE, "noah").mean(axis=1)
    assert (found.top1_mean, found.top1_sd) == pytest.approx((scores.mean(), scores.std(ddof=1)))
    assert [float(score) for score in found.top1_per_seed.split(";")] == pytest.approx(scores)
    assert (found.minival_top1_mean, found.minival_top1_sd, found.train_seconds_mean) == (66, 1, 600)
    assert (found.parameters, found.macs, found.images_per_s, found.images_per_s_ratio) == (410_160, 15e6, 900, 0.9)
    assert (found.seeds, found.seeds_expected, found.status, found.width, found.score) == (
        *["0;1;2"] * 2,
        "ok",
        0.35,
        "top1",
    )
    assert (found.collapsed, found.at_chance) == (False, False)


def test_speed_is_relative_to_the_reference_on_the_same_backbone(finished):
    found = arms(finished.study).set_index(["backbone", "arm"]).images_per_s_ratio
    assert found[DEIT].to_dict() == {"baseline": 1.0, "patch-gap": 1.01, "noah": 0.9}


def test_a_run_far_under_its_arms_median_is_a_collapse_and_the_middle_of_the_seeds_is_known_too(finished):
    path = finished.study.path
    write_text(path, path.read_text().replace("seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3]"))
    study = load_study("two")
    finished.study = study
    rescore(finished, "noah", [0.7, 0.72, 0.2, 0.71])
    rescore(finished, "baseline", [0.6, 0.6, 0.6, 0.6])
    found = arm(study, MOBILE, "noah")
    scores = np.sort([100 * finished.right[MOBILE, "noah", seed].mean() for seed in range(4)])
    assert found.collapsed
    assert found.top1_iqm == pytest.approx(scores[1:3].mean())
    assert found.top1_mean < found.top1_iqm - 5
    assert not arm(study, MOBILE, "baseline").collapsed


def test_a_run_ten_points_under_its_arms_median_is_the_least_collapse(finished, monkeypatch):
    scores = finished.values(MOBILE, "noah").mean(axis=1)
    distance = np.median(scores) - scores.min()
    monkeypatch.setattr("noah.report.arms.COLLAPSE", distance + 1e-6)
    assert not arm(finished.study, MOBILE, "noah").collapsed
    monkeypatch.setattr("noah.report.arms.COLLAPSE", distance - 1e-6)
    assert arm(finished.study, MOBILE, "noah").collapsed


def test_an_arm_no_better_than_a_guess_is_marked(finished):
    rescore(finished, "noah", [0.08, 0.1, 0.09])
    found = arms(finished.study).set_index(["backbone", "arm"]).at_chance
    assert found[found].index.tolist() == [(MOBILE, "noah")]


def test_an_arm_without_runs_is_missing_and_has_costs_alone(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0).parent)
    found = arm(finished.study, MOBILE, "noah")
    assert found.status == "missing"
    assert found[["seeds", "top1_mean", "top1_sd", "top1_iqm", "top1_per_seed", "minival_top1_mean"]].isna().all()
    assert (found.collapsed, found.at_chance) == (False, False)
    assert found.parameters == 410_160


def test_an_arm_without_a_seed_is_partial_and_its_mean_is_of_the_others(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0))
    found = arm(finished.study, MOBILE, "noah")
    assert (found.status, found.seeds, found.seeds_expected) == ("partial", "1;2", "0;1;2")
    assert found.top1_mean == pytest.approx(finished.values(MOBILE, "noah", (1, 2)).mean())


def test_one_seed_has_no_spread(finished):
    for seed in (0, 1):
        shutil.rmtree(finished.folder(MOBILE, "noah", seed))
    found = arm(finished.study, MOBILE, "noah")
    assert pd.isna(found.top1_sd)
    assert found.top1_mean == pytest.approx(finished.values(MOBILE, "noah", (2,)).mean())
    assert found.top1_iqm == pytest.approx(found.top1_mean)


def test_the_middle_half_of_three_runs_is_not_their_mean(finished):
    rescore(finished, "noah", [0.7, 0.72, 0.2])
    low, middle, high = np.sort([100 * finished.right[MOBILE, "noah", seed].mean() for seed in range(3)])
    assert arm(finished.study, MOBILE, "noah").top1_iqm == pytest.approx((low + 4 * middle + high) / 6)


def test_costs_that_were_not_measured_are_missing_alone(finished):
    (finished.study.results / "cost" / f"digits-{MOBILE}.json").unlink()
    found = arm(finished.study, MOBILE, "noah")
    assert found[["parameters", "macs", "images_per_s", "images_per_s_ratio"]].isna().all()
    assert found.status == "ok"
    assert arm(finished.study, DEIT, "noah").images_per_s_ratio == 0.9


def test_a_study_without_any_run_has_all_its_arms_and_columns(finished):
    empty = load_study("two", "small")
    found = arms(empty)
    assert found.columns.tolist() == arms(finished.study).columns.tolist()
    assert set(found.status) == {"missing"}
    assert len(found) == 5


def test_a_study_of_two_scores_has_the_metrics_of_both_and_guesses_of_each(mixed):
    found = arms(mixed).set_index(["dataset", "backbone", "arm"])
    assert {"top1", "top5", "map", "cf1", "minival_map"} <= set(run_metrics(mixed))
    several = found.loc[("several", MOBILE, "noah")]
    assert several.map_mean > 50
    assert pd.isna(several.top1_mean)
    assert pd.isna(found.loc[("digits", MOBILE, "noah"), "map_mean"])
    assert not found.at_chance.any()
