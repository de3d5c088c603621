"""A study of a single-label and a multi-label dataset: each has its own score, and says which."""

from pathlib import Path

import numpy as np
import pandas as pd
from shown import collected_and_compared, lines, notes, pair_of, read_csv

from noah.config import load_study
from noah.files import read_json, write_text
from noah.report.comparison_table import read_comparison
from noah.report.figures import write_figures

MOBILE = "mobilenetv2-w0.35"
TOP1, MAP = "Accuracy and cost on digits", "Mean average precision and cost on several"


def test_each_dataset_has_its_own_score_in_a_section_of_its_own(mixed):
    assert "top-1" in lines(mixed, TOP1)[MOBILE]["noah"]
    row = lines(mixed, MAP)[MOBILE]["noah"]
    measured = [
        read_json(mixed.results / "runs" / run.key / "metrics.json")["map"]
        for run in mixed.runs
        if run.dataset.multi_label and run.backbone.name == "mobilenetv2" and run.arm == "noah"
    ]
    assert row["mAP"] == f"{np.mean(measured):.2f} ± {np.std(measured, ddof=1):.2f}"
    pairs = read_comparison(mixed)
    pair = pair_of(pairs[pairs.dataset == "several"], MOBILE, "baseline", "noah")
    assert row["Δ to baseline"] == f"{pair.delta:+.1f} [{pair.low:+.1f}, {pair.high:+.1f}]"
    assert row["verdict"] == "ahead"


def test_published_imagenet_numbers_never_stand_beside_mean_average_precision(mixed):
    assert lines(mixed, TOP1)[MOBILE]["noah"]["paper"] == "+3.8"
    assert "paper" not in lines(mixed, MAP)[MOBILE]["noah"]


def test_what_holds_over_all_backbones_is_said_of_each_dataset(mixed):
    assert list(lines(mixed, "Over all backbones")) == ["digits", "several"]


def test_one_family_of_declared_pairs_spans_both_datasets(mixed):
    pairs = read_comparison(mixed)
    assert pairs.p_holm.notna().sum() == 6
    assert "over the 6 declared differences" in notes(mixed)


def test_the_notes_say_which_score_is_of_which_images(mixed):
    for part in (
        "Top-1 in percent on the test split (digits: 400 images)",
        "mAP in percent on the test split (several: 400 images)",
        "95% interval over trainings and test images",
    ):
        assert part in notes(mixed), part


def test_images_left_out_of_a_split_are_said_under_the_table(mixed):
    part = "Left out as bad images (quarantine.csv), share of the split: several train 0.125%."
    assert part in notes(mixed)


def test_the_csv_has_both_kinds_of_metrics(mixed):
    table = read_csv(mixed)
    several = table[(table.dataset == "several") & (table.backbone == MOBILE)]
    arm = several[several.arm == "noah"].iloc[0]
    assert arm.map_mean > arm.minival_map_mean / 2
    assert np.isnan(arm.top1_mean)
    pair = several[several["from"] == "baseline"].iloc[0]
    assert (pair.minival_delta, np.isnan(pair.mcnemar_p_median), np.isnan(pair.published_delta)) == (5, 1, 1)


def test_the_long_table_has_the_average_precision_of_every_class(mixed):
    long = pd.read_parquet(mixed.results / "long.parquet")
    assert (
        long[long.dataset == "several"].status.eq("ok")[long.metric.isin(["map", "map/3", "cf1", "minival_map"])].all()
    )
    assert not long[(long.dataset == "several") & long.seed.notna()].metric.str.startswith("top1").any()


def test_figures_name_both_scores(mixed):
    curves, _, differences, _ = (path.read_text(errors="ignore") for path in write_figures(mixed))
    assert "minival mAP (%)" in curves
    assert "minival top-1 (%)" in curves
    assert "difference in top-1 or mAP (percentage points)" in differences


def test_a_recipe_field_that_run_files_leave_out_by_default_is_a_difference_all_the_same(workdir):
    path = Path("config/studies/two.yaml")
    write_text(path, path.read_text().replace("recipe: {lr: 1.0e-3}", "recipe: {repeats: 3}"))
    study = load_study("two")
    collected_and_compared(study)
    compared = read_json(study.results / "fairness.json")["comparisons"]
    changed = [c["differences"] for c in compared if (c["from"], c["to"]) == ("baseline", "noah")]
    assert changed == [{"recipe.repeats": [1, 3]}] * 2
