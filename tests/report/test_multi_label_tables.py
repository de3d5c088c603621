"""A study of a single-label and a multi-label dataset: each has its own score, and says which."""

from pathlib import Path

import numpy as np
import pandas as pd

from noah.config import load_study
from noah.files import read_json, write_text
from noah.report.collect import collect
from noah.report.figures import write_figures
from noah.report.tables import build_table, write_tables


def grid(study, caption: str) -> dict[str, dict[str, str]]:
    found = next(grid for grid in build_table(study).grids if grid.caption == caption)
    return {row[0]: dict(zip(found.header, row, strict=True)) for row in found.rows}


def test_each_dataset_has_its_own_score_in_a_section_of_its_own(mixed):
    assert "noah top-1" in grid(mixed, "Accuracy, digits")["mobilenetv2"]
    row = grid(mixed, "Mean average precision, several")["mobilenetv2"]
    measured = [
        read_json(mixed.results / "runs" / run.key / "metrics.json")["map"]
        for run in mixed.runs
        if run.dataset.multi_label and run.backbone.name == "mobilenetv2" and run.arm == "noah"
    ]
    assert row["noah mAP"] == f"{np.mean(measured):.2f} ± {np.std(measured, ddof=1):.2f}"
    assert float(row["Δ baseline → noah"].split(" ± ")[0]) > 5
    assert row["p"] == "—"


def test_published_imagenet_numbers_never_stand_beside_mean_average_precision(mixed):
    assert "Δ published, ImageNet" in grid(mixed, "Accuracy, digits")["mobilenetv2"]
    assert "published" not in " ".join(grid(mixed, "Mean average precision, several")["mobilenetv2"])


def test_the_notes_say_which_score_and_how_its_interval_is_made(mixed):
    text = "\n".join(build_table(mixed).notes)
    for part in (
        "Top-1 in percent on the test split (digits: 400 images)",
        "mAP in percent (mean over classes of average precision, without classes that have no image) on the test split "
        "(several: 400 images)",
        "10,000 (top-1) or 1,000 (mAP) paired bootstraps",
        "The McNemar test does not apply to mAP: —.",
    ):
        assert part in text, part


def test_images_left_out_of_a_split_are_said_under_the_table(mixed):
    text = "\n".join(build_table(mixed).notes)
    assert "Left out as bad images (quarantine.csv), share of the split: several train 0.125%." in text


def test_the_csv_has_both_kinds_of_metrics(mixed):
    write_tables(mixed)
    table = pd.read_csv(mixed.results / "tables" / "comparison.csv")
    several = table[(table.dataset == "several") & (table.backbone == "mobilenetv2-w0.35")]
    arm = several[several.arm == "noah"].iloc[0]
    assert arm.map_mean > arm.minival_map_mean / 2
    assert np.isnan(arm.top1_mean)
    pair = several[several["from"] == "baseline"].iloc[0]
    assert (pair.minival_delta, np.isnan(pair.mcnemar_p_median), np.isnan(pair.published_imagenet_delta)) == (5, 1, 1)


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
    collect(study)
    compared = read_json(study.results / "fairness.json")["comparisons"]
    changed = [c["differences"] for c in compared if (c["from"], c["to"]) == ("baseline", "noah")]
    assert changed == [{"recipe.repeats": [1, 3]}] * 2
