import io
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from noah.config import load_study
from noah.files import read_json, write_json, write_text
from noah.report.collect import collect
from noah.report.figures import write_figures
from noah.report.tables import build_table, publish, table_for_terminal, write_tables

DEIT, MOBILE = "deit_tiny-d6-w0.5", "mobilenetv2-w0.35"


def cells(study, grid: int = 0) -> dict[str, dict[str, str]]:
    """Backbone -> column -> cell; the second p column is named p2."""
    grid = build_table(study).grids[grid]
    header = [name if name not in grid.header[:i] else f"{name}2" for i, name in enumerate(grid.header)]
    return {row[0]: dict(zip(header, row, strict=True)) for row in grid.rows}


def read_csv(study) -> pd.DataFrame:
    write_tables(study)
    return pd.read_csv(study.results / "tables" / "comparison.csv")


def notes(study) -> str:
    return "\n".join(build_table(study).notes)


def test_rows_are_in_the_papers_order(finished):
    collect(finished.study)
    assert list(cells(finished.study)) == ["mobilenetv2", "deit_tiny-d6"]


def test_cells_hold_mean_spread_and_difference_of_the_records(finished):
    collect(finished.study)
    row = cells(finished.study)["mobilenetv2"]
    top1 = {
        arm: 100 * np.stack([finished.right[MOBILE, arm, s] for s in range(3)]).mean(axis=1)
        for arm in ("baseline", "noah")
    }
    assert row["noah top-1"] == f"{top1['noah'].mean():.2f} ± {top1['noah'].std(ddof=1):.2f}"
    delta, half_width = row["Δ baseline → noah"].split(" ± ")
    per_seed = top1["noah"] - top1["baseline"]
    seeds = t.ppf(0.975, 2) * per_seed.std(ddof=1) / np.sqrt(3)
    assert float(delta) == pytest.approx(per_seed.mean(), abs=0.005)
    assert seeds < float(half_width) < np.hypot(seeds, 10)


def test_csv_holds_the_same_numbers_unrounded(finished):
    collect(finished.study)
    table = read_csv(finished.study)
    assert len(table) == 2 * (3 + 2)
    arm = table[(table.backbone == MOBILE) & (table.arm == "noah")].iloc[0]
    expected = [100 * finished.right[MOBILE, "noah", s].mean() for s in range(3)]
    assert [float(value) for value in arm.top1_per_seed.split(";")] == pytest.approx(expected)
    assert arm.minival_top1_mean == 66
    assert arm.parameters == 410_160
    assert arm.images_per_s_ratio == 0.9
    pair = table[(table.backbone == MOBILE) & (table["from"] == "baseline")].iloc[0]
    assert pair.half_width == pytest.approx(np.hypot(pair.half_width_seeds, pair.half_width_images))
    assert pair.mcnemar_p_median == np.median([float(p) for p in pair.mcnemar_p_per_seed.split(";")])
    assert (pair.minival_delta, pair.published_imagenet_delta, pair.status) == (5.0, 3.78, "ok")


def test_an_arm_that_a_family_lacks_is_a_dash_and_absent_in_the_csv(finished):
    collect(finished.study)
    row = cells(finished.study)["mobilenetv2"]
    assert row["patch-gap top-1"] == row["Δ patch-gap → noah"] == row["p2"] == "—"
    assert cells(finished.study, 1)["mobilenetv2"]["patch-gap images/s"] == "—"
    table = read_csv(finished.study)
    absent = table[(table.backbone == MOBILE) & ((table.arm == "patch-gap") | (table["from"] == "patch-gap"))]
    assert absent.status.tolist() == ["absent", "absent"]
    assert absent[["top1_mean", "delta", "parameters"]].isna().all(axis=None)


def test_an_arm_without_runs_is_missing_never_a_number(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0).parent)
    collect(finished.study)
    row = cells(finished.study)["mobilenetv2"]
    assert row["noah top-1"] == row["Δ baseline → noah"] == row["p"] == "missing"
    assert "±" in row["baseline top-1"]
    assert "Missing: 3 of 15 runs" in notes(finished.study)
    table = read_csv(finished.study)
    missing = table[(table.backbone == MOBILE) & ((table.arm == "noah") | (table["to"] == "noah"))]
    assert missing.status.tolist() == ["missing", "missing", "absent"]
    assert missing[["top1_mean", "delta", "half_width"]].isna().all(axis=None)


def test_a_missing_seed_is_counted_and_pairs_use_the_seeds_both_have(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0))
    collect(finished.study)
    row = cells(finished.study)["mobilenetv2"]
    assert row["noah top-1"].endswith(" (2 of 3 seeds)")
    assert row["Δ baseline → noah"].endswith(" (2 of 3 seeds)")
    expected = [
        100 * (finished.right[MOBILE, "noah", s].mean() - finished.right[MOBILE, "baseline", s].mean()) for s in (1, 2)
    ]
    pair = read_csv(finished.study).query(f"backbone == '{MOBILE}' and `from` == 'baseline'").iloc[0]
    assert [float(value) for value in pair.delta_per_seed.split(";")] == pytest.approx(expected)
    assert (pair.seeds, pair.status) == ("1;2", "partial")


def test_one_shared_seed_says_that_seeds_are_not_covered(finished):
    for seed in (0, 1):
        shutil.rmtree(finished.folder(MOBILE, "noah", seed))
    collect(finished.study)
    assert cells(finished.study)["mobilenetv2"]["Δ baseline → noah"].endswith("(1 of 3 seeds, seeds not covered)")


def test_a_study_of_one_seed_says_so_in_its_note(workdir):
    study = load_study("two", "small")
    collect(study)
    assert "seeds not covered" in notes(study)


def test_costs_that_were_not_measured_are_missing(finished):
    (finished.study.results / "cost" / f"digits-{MOBILE}.json").unlink()
    collect(finished.study)
    row = cells(finished.study, 1)["mobilenetv2"]
    assert row["noah images/s"] == row["noah MACs (M)"] == row["noah params (M)"] == "missing"


def test_speed_is_absolute_and_relative_to_the_baseline(finished):
    collect(finished.study)
    row = cells(finished.study, 1)["deit_tiny-d6"]
    assert (row["baseline images/s"], row["noah images/s"]) == ("1,000 (1.00x)", "900 (0.90x)")


def test_published_differences_are_labelled_and_stand_only_beside_the_papers_own_pair(finished):
    collect(finished.study)
    rows = cells(finished.study)
    assert rows["deit_tiny-d6"]["Δ published, ImageNet"] == "+5.30"
    header = build_table(finished.study).grids[0].header
    assert [name for name in header if "published" in name] == ["Δ published, ImageNet"]
    assert header.index("Δ published, ImageNet") == header.index("Δ baseline → noah") + 2
    assert f"differ from the published ones, unlike the ImageNet numbers beside them: {DEIT}: depth 6" in notes(
        finished.study
    )


@pytest.mark.parametrize("switch", ["num_heads: 2", "split_key_value: false", "merge: mean"])
def test_another_noah_than_the_papers_has_no_published_difference(workdir, switch):
    path = workdir / "config/studies/two.yaml"
    write_text(path, path.read_text().replace("noah: {head: noah,", f"noah: {{head: noah, {switch},"))
    study = load_study("two")
    collect(study)
    assert "published" not in " ".join(build_table(study).grids[0].header)


def test_missing_published_numbers_are_a_clear_error(finished):
    collect(finished.study)
    Path("config/published/imagenet.csv").unlink()
    with pytest.raises(
        ValueError, match=r"config/published/imagenet\.csv: no such file, which config/studies/two\.yaml"
    ):
        write_tables(finished.study)


def test_published_numbers_without_a_column_are_a_clear_error(finished):
    collect(finished.study)
    path = Path("config/published/imagenet.csv")
    pd.read_csv(path).drop(columns="top1_noah").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"imagenet\.csv: missing column 'top1_noah'"):
        write_tables(finished.study)


def test_the_note_says_what_the_numbers_rest_on(finished):
    collect(finished.study)
    text = notes(finished.study)
    for part in (
        "400 images",
        "seeds 0, 1, 2",
        "noah: small_m",
        "class token yes → no",
        "dropout in the head 0.0 → 0.1",
        "recipe field lr 0.002 → 0.001",
        "those of the last epoch",
        "the test split selected nothing",
        "train aaaaaaaaaaaa",
        "c0ffeec0ff: 15 runs",
        "cpu, float32, 2 threads, torch 2.14.1, batch 64",
        "finished 2026-11-21",
        "A note of the study's own.",
    ):
        assert part in text, part
    assert "Warning" not in text


def test_unequal_commits_are_warned_of_under_the_table(finished):
    path = finished.folder(MOBILE, "noah", 1) / "provenance.json"
    write_json(path, {**read_json(path), "commit": "f" * 40, "dirty": True})
    collect(finished.study)
    text = notes(finished.study)
    assert "ffffffffff (uncommitted changes): 1 runs" in text
    assert "Warning: the runs come from different commits." in text


def test_arms_predicted_on_other_images_are_refused(finished):
    path = finished.folder(MOBILE, "noah", 1) / "predictions.parquet"
    records = pd.read_parquet(path)
    records["key"] = "x" + records["key"]
    records.to_parquet(path)
    collect(finished.study)
    with pytest.raises(ValueError, match=f"runs/digits/short/{MOBILE}/baseline and .*noah: keys differ") as error:
        write_tables(finished.study)
    assert "\n" not in str(error.value)


def test_tables_need_a_collected_study(workdir):
    with pytest.raises(ValueError, match=r"results/two/long\.parquet: no such file"):
        write_tables(load_study("two"))


def test_all_formats_are_written_and_a_second_time_with_the_same_bytes(finished):
    collect(finished.study)
    paths = write_tables(finished.study)
    assert [path.name for path in paths] == [f"comparison.{suffix}" for suffix in ("md", "tex", "html", "csv")]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_tables(finished.study)] == before
    assert table_for_terminal(finished.study) == paths[0].read_text()


def test_several_datasets_have_sections_of_their_own(workdir):
    write_text(
        "config/datasets/other.yaml",
        Path("config/datasets/digits.yaml").read_text().replace("name: digits\n", "name: other\n"),
    )
    path = workdir / "config/studies/two.yaml"
    write_text(path, path.read_text().replace("datasets: [digits]", "datasets: [other, digits]"))
    study = load_study("two")
    collect(study)
    captions = [grid.caption for grid in build_table(study).grids]
    assert captions[::2] == ["Accuracy, other", "Accuracy, digits"]


def test_a_recipe_per_backbone_keeps_one_table_in_the_papers_order(workdir):
    shutil.copy("config/recipes/short.yaml", "config/recipes/long.yaml")
    path = workdir / "config/studies/two.yaml"
    write_text(path, path.read_text().replace("depth: 6}", "depth: 6, recipe: long}"))
    study = load_study("two")
    collect(study)
    grids = build_table(study).grids
    assert [grid.caption for grid in grids] == ["Accuracy", "Cost"]
    assert [row[0] for row in grids[0].rows] == ["mobilenetv2", "deit_tiny-d6"]


def test_a_backbone_with_two_recipes_has_a_section_for_each(workdir):
    shutil.copy("config/recipes/short.yaml", "config/recipes/long.yaml")
    path = workdir / "config/studies/two.yaml"
    write_text(path, path.read_text().replace("recipes: [short]", "recipes: [short, long]"))
    study = load_study("two")
    collect(study)
    captions = [grid.caption for grid in build_table(study).grids]
    assert captions[::2] == ["Accuracy, digits with recipe short", "Accuracy, digits with recipe long"]


def test_the_csv_has_the_same_columns_whatever_is_missing(finished):
    empty = load_study("two", "small")
    collect(finished.study)
    collect(empty)
    assert read_csv(finished.study).columns.tolist() == read_csv(empty).columns.tolist()


def test_publishing_copies_the_tables_under_todays_date(finished):
    collect(finished.study)
    write_tables(finished.study)
    write_figures(finished.study)
    paths = publish(finished.study)
    day = datetime.now(UTC).date().isoformat()
    endings = (".md", ".csv", "-differences.png")
    assert [path.as_posix() for path in paths] == [f"docs/results/{day}-two{ending}" for ending in endings]
    assert paths[0].read_text() == table_for_terminal(finished.study)
    assert len(pd.read_csv(io.StringIO(paths[1].read_text()))) == 10


def test_publishing_needs_written_tables(workdir):
    with pytest.raises(ValueError, match=r"tables/comparison\.md: no such file"):
        publish(load_study("two"))
