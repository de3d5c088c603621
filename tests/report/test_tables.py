import io
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_study import write_everything, write_run
from shown import captions, collected_and_compared, lines, notes, pair_of, read_csv

from noah.config import load_study
from noah.files import read_json, write_json, write_text
from noah.report.comparison_table import read_comparison
from noah.report.figures import write_figures
from noah.report.tables import build_table, delta, publish, table_for_terminal, verdict_cell, write_tables

DEIT, MOBILE = "deit_tiny-d6-w0.5", "mobilenetv2-w0.35"
NO_COST = {"params": "missing", "MACs": "missing", "speed": "missing"}


def change_study(workdir, old: str, new: str):
    path = workdir / "config/studies/two.yaml"
    assert old in path.read_text()
    write_text(path, path.read_text().replace(old, new))
    return load_study("two")


def write_pairs(study, backbone: str, to: str, **fields) -> None:
    """Set fields of a pair in comparison.parquet."""
    comparison = read_comparison(study)
    rows = (comparison["backbone"] == backbone) & (comparison["to"] == to) & (comparison["kind"] == "pair")
    for name, value in fields.items():
        comparison.loc[rows, name] = value
    comparison.to_parquet(study.results / "comparison.parquet", index=False)


def test_backbones_are_in_the_papers_order_and_arms_in_the_studys(finished):
    collected_and_compared(finished.study)
    assert {backbone: list(of) for backbone, of in lines(finished.study).items()} == {
        MOBILE: ["baseline", "noah"],
        DEIT: ["baseline", "patch-gap", "noah"],
    }


def test_cells_hold_mean_spread_and_difference_of_the_records(finished):
    pairs = collected_and_compared(finished.study)
    rows = lines(finished.study)[MOBILE]
    for arm in ("baseline", "noah"):
        scores = finished.values(MOBILE, arm).mean(axis=1)
        assert rows[arm]["top-1"] == f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}"
    pair = pair_of(pairs, MOBILE, "baseline", "noah")
    gain = finished.values(MOBILE, "noah").mean() - finished.values(MOBILE, "baseline").mean()
    assert rows["noah"]["Δ to baseline"] == f"{gain:+.1f} [{pair.low:+.1f}, {pair.high:+.1f}]"
    assert rows["noah"]["verdict"] == "ahead"
    assert (rows["baseline"]["Δ to baseline"], rows["baseline"]["verdict"]) == ("reference", "—")


def test_a_difference_has_no_more_digits_than_it_is_known_to():
    pair = pd.Series({"delta": 2.345, "low": 1.9, "high": 2.79, "half_width": 0.445})
    assert delta(pair) == "+2.35 [+1.90, +2.79]"
    assert delta(pair.replace({0.445: 0.5})) == "+2.3 [+1.9, +2.8]"
    assert delta(pd.Series({"delta": -2.345, "low": np.nan, "high": np.nan, "half_width": np.nan})) == "-2.3"


PAIR = {
    "delta": 1.0,
    "verdict": "ahead",
    "declared": True,
    "p_holm": 0.01,
    "seeds_needed": pd.NA,
    "seeds_from": "0;1;2",
    "seeds_to": "0;1",
}


@pytest.mark.parametrize(
    ("fields", "cell"),
    [
        ({}, "ahead"),
        ({"verdict": "behind"}, "behind"),
        ({"p_holm": 0.0499}, "ahead"),
        ({"p_holm": 0.0501}, "ahead*"),
        ({"verdict": "behind", "p_holm": 0.3}, "behind*"),
        ({"verdict": "equal", "p_holm": 1.0}, "equal"),
        ({"verdict": "undecided", "p_holm": 1.0, "seeds_needed": 12}, "? 12 seeds"),
        ({"verdict": "undecided", "p_holm": 1.0}, "? images"),
        ({"declared": False, "p_holm": np.nan}, "(ahead)"),
        ({"declared": False, "p_holm": np.nan, "verdict": "undecided", "seeds_needed": 7}, "(? 7 seeds)"),
        ({"verdict": pd.NA, "p_holm": np.nan}, "2 seeds"),
        ({"verdict": pd.NA, "p_holm": np.nan, "seeds_to": "4"}, "1 seed"),
        ({"verdict": pd.NA, "seeds_to": "0;1;2", "images": 1, "clustered": False}, "1 image"),
        ({"verdict": pd.NA, "seeds_to": "0;1;2", "images": 400, "clustered": True, "clusters": 1.1}, "1 source"),
        ({"verdict": pd.NA, "seeds_to": "0;1;2", "images": 400, "clustered": True, "clusters": 2.0}, "2 sources"),
        ({"seeds_needed": 101, "verdict": "undecided"}, "? >100 seeds"),
        ({"delta": np.nan, "verdict": pd.NA}, "missing"),
    ],
)
def test_a_verdict_is_a_word_and_says_what_weakens_it(fields, cell):
    assert verdict_cell(pd.Series({**PAIR, **fields})) == cell


def test_cells_are_what_the_comparison_says_not_computed_again(finished):
    collected_and_compared(finished.study)
    write_pairs(finished.study, MOBILE, "noah", delta=-7.0, low=-9.0, high=-5.0, verdict="behind", p_holm=0.06)
    row = lines(finished.study)[MOBILE]["noah"]
    assert (row["Δ to baseline"], row["verdict"]) == ("-7.0 [-9.0, -5.0]", "behind*")


def test_pairs_that_do_not_start_at_the_reference_have_a_grid_of_their_own(finished):
    pairs = collected_and_compared(finished.study)
    pair = pair_of(pairs, DEIT, "patch-gap", "noah")
    assert lines(finished.study, "Other pairs") == {
        DEIT: {"patch-gap → noah": {"pair": "patch-gap → noah", "Δ": delta(pair), "verdict": verdict_cell(pair)}}
    }


def test_what_a_pair_does_over_all_backbones_stands_below(finished):
    pairs = collected_and_compared(finished.study)
    mean = delta(pair_of(pairs, "", "baseline", "noah", kind="overall"))
    assert lines(finished.study, "Over all backbones") == {
        "digits": {"baseline → noah": {"pair": "baseline → noah", "mean Δ": mean, "Δ above 0": "2 of 2"}}
    }


def test_csv_holds_the_same_numbers_unrounded(finished):
    pairs = collected_and_compared(finished.study)
    table = read_csv(finished.study)
    assert table.kind.tolist() == ["arm"] * 5 + ["pair"] * 4 + ["overall"]
    arm = table[(table.backbone == MOBILE) & (table.arm == "noah")].iloc[0]
    expected = [100 * finished.right[MOBILE, "noah", s].mean() for s in range(3)]
    assert [float(value) for value in arm.top1_per_seed.split(";")] == pytest.approx(expected)
    assert (arm.minival_top1_mean, arm.parameters, arm.images_per_s_ratio) == (66, 410_160, 0.9)
    for kind in ("pair", "overall"):
        shown, computed = table[table.kind == kind], pairs[pairs.kind == kind]
        for name in ("delta", "low", "high", "se", "df", "p", "p_holm", "minival_delta", "published_delta", "tau"):
            assert shown[name].tolist() == pytest.approx(computed[name].tolist(), nan_ok=True), name
        for name in ("backbone", "from", "to", "verdict", "status", "seeds_from"):
            assert shown[name].fillna("").tolist() == computed[name].fillna("").tolist(), name
    assert "e+" not in (finished.study.results / "tables/comparison.csv").read_text()


def test_an_arm_that_a_family_lacks_has_no_line(finished):
    collected_and_compared(finished.study)
    assert "patch-gap" not in lines(finished.study)[MOBILE]
    assert MOBILE not in lines(finished.study, "Other pairs")
    table = read_csv(finished.study)
    assert not ((table.backbone == MOBILE) & ((table.arm == "patch-gap") | (table["from"] == "patch-gap"))).any()


def test_an_arm_without_runs_is_missing_never_a_number(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0).parent)
    collected_and_compared(finished.study)
    rows = lines(finished.study)[MOBILE]
    assert [rows["noah"][column] for column in ("top-1", "Δ to baseline", "verdict")] == ["missing"] * 3
    assert "±" in rows["baseline"]["top-1"]
    assert "Missing: 3 of 15 runs" in notes(finished.study)
    table = read_csv(finished.study)
    missing = table[(table.backbone == MOBILE) & ((table.arm == "noah") | (table["to"] == "noah"))]
    assert missing.status.tolist() == ["missing", "missing"]
    assert missing[["top1_mean", "delta", "half_width"]].isna().all(axis=None)
    assert not (table.kind == "overall").any(), "one backbone is left"


def test_a_reference_without_runs_leaves_every_difference_missing(finished):
    shutil.rmtree(finished.folder(MOBILE, "baseline", 0).parent)
    collected_and_compared(finished.study)
    rows = lines(finished.study)[MOBILE]
    assert rows["baseline"]["top-1"] == rows["noah"]["Δ to baseline"] == rows["noah"]["verdict"] == "missing"
    assert "±" in rows["noah"]["top-1"]


def test_a_missing_seed_is_counted(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0))
    collected_and_compared(finished.study)
    row = lines(finished.study)[MOBILE]["noah"]
    scores = finished.values(MOBILE, "noah", (1, 2)).mean(axis=1)
    assert row["top-1"] == f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f} (2/3)"
    assert row["verdict"] == "2 seeds"
    assert "(k/S): k of S seeds finished." in notes(finished.study)


def test_one_seed_has_a_difference_without_interval_and_no_verdict(finished):
    for seed in (0, 1):
        shutil.rmtree(finished.folder(MOBILE, "noah", seed))
    collected_and_compared(finished.study)
    row = lines(finished.study)[MOBILE]["noah"]
    gain = finished.values(MOBILE, "noah", (2,)).mean() - finished.values(MOBILE, "baseline").mean()
    assert row["top-1"] == f"{finished.values(MOBILE, 'noah', (2,)).mean():.2f} (1/3)"
    assert (row["Δ to baseline"], row["verdict"]) == (f"{gain:+.1f}", "1 seed")


def test_a_study_of_one_seed_says_in_its_notes_that_there_is_no_interval(workdir):
    study = load_study("two", "small")
    write_everything(study)
    collected_and_compared(study)
    text = notes(study)
    assert "without intervals" in text
    assert "95%" not in text.split("ahead, behind")[0]
    assert {row["verdict"] for of in lines(study).values() for row in of.values()} == {"—", "1 seed"}


def test_a_study_without_any_run_speaks_of_no_interval(workdir):
    study = load_study("two", "small")
    collected_and_compared(study)
    text = notes(study)
    assert "not predicted yet" in text
    assert "Missing: 5 of 5 runs" in text
    assert "interval" not in text


def test_a_collapsed_run_shows_the_middle_of_the_seeds_beside_the_mean(finished):
    run = next(r for r in finished.study.runs if (r.backbone.slug, r.arm, r.seed) == (MOBILE, "noah", 1))
    write_run(finished.study, run, share=0.2)
    collected_and_compared(finished.study)
    middle = read_csv(finished.study).query(f"backbone == '{MOBILE}' and arm == 'noah'").iloc[0].top1_iqm
    assert lines(finished.study)[MOBILE]["noah"]["top-1"].endswith(f", IQM {middle:.2f}")
    assert "IQM: interquartile mean" in notes(finished.study)


def test_an_arm_no_better_than_a_guess_is_marked(finished):
    for run in finished.study.runs:
        if (run.backbone.slug, run.arm) == (MOBILE, "noah"):
            write_run(finished.study, run, share=0.08)
    collected_and_compared(finished.study)
    rows = lines(finished.study)[MOBILE]
    assert rows["noah"]["top-1"].endswith("†")
    assert "†" not in rows["baseline"]["top-1"]
    assert "†: no better than a guess." in notes(finished.study)


def test_marks_that_no_cell_has_are_not_explained(finished):
    collected_and_compared(finished.study)
    for mark in ("IQM", "†", "(k/S)", "Missing", "Warning", "equal:"):
        assert mark not in notes(finished.study), mark


def test_a_margin_is_said_where_equal_is_possible(finished):
    study = change_study(Path("."), "title:", "margin: 1.5\ntitle:")
    collected_and_compared(study)
    assert "equal: the 90% interval lies within ±1.5." in notes(study)


def test_costs_that_were_not_measured_are_missing(finished):
    (finished.study.results / "cost" / f"digits-{MOBILE}.json").unlink()
    collected_and_compared(finished.study)
    for row in lines(finished.study)[MOBILE].values():
        assert {column: row[column] for column in NO_COST} == NO_COST


def test_speed_is_absolute_for_the_reference_and_relative_to_it_for_the_others(finished):
    collected_and_compared(finished.study)
    rows = lines(finished.study)[DEIT]
    assert {arm: row["speed"] for arm, row in rows.items()} == {
        "baseline": "1,000/s",
        "patch-gap": "1.01x",
        "noah": "0.90x",
    }
    assert (rows["noah"]["params"], rows["noah"]["MACs"]) == ("0.410", "15.0")


def test_published_differences_are_labelled_and_stand_only_beside_the_papers_own_pair(finished):
    collected_and_compared(finished.study)
    rows = lines(finished.study)[DEIT]
    assert {arm: row["paper"] for arm, row in rows.items()} == {"baseline": "", "patch-gap": "", "noah": "+5.3"}
    text = notes(finished.study)
    assert "paper: Δ published for ImageNet, not measured here." in text
    assert "config/published/imagenet.csv" in text
    assert f"Architectures that differ from the published ones: {DEIT}: depth 6" in text


def test_without_published_numbers_there_is_no_column_for_them(finished):
    study = change_study(Path("."), "published: imagenet", "")
    collected_and_compared(study)
    assert "paper" not in build_table(study).grids[0].header
    assert "paper" not in notes(study)


def test_the_notes_say_what_the_numbers_rest_on(finished):
    collected_and_compared(finished.study)
    text = notes(finished.study)
    for part in (
        "digits: 400 images",
        "over 3 seeds",
        "95% interval over trainings and test images",
        "over the 3 declared differences",
        "noah: small_m",
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


def test_what_differs_besides_the_head_is_a_line_per_fact(finished):
    collected_and_compared(finished.study)
    grid = next(grid for grid in build_table(finished.study).grids if grid.caption == "What else differs")
    differences = {group.heading: group.rows for group in grid.groups}
    assert ("class token", "yes", "no", DEIT) in differences["baseline → noah"]
    assert ("dropout in the head", "0.0", "0.1", "all") in differences["baseline → noah"]
    assert ("recipe: lr", "0.002", "0.001", "all") in differences["patch-gap → noah"]
    assert not any(fact == "class token" for fact, *_ in differences["patch-gap → noah"])


def test_unequal_commits_are_warned_of_under_the_table(finished):
    path = finished.folder(MOBILE, "noah", 1) / "provenance.json"
    write_json(path, {**read_json(path), "commit": "f" * 40, "dirty": True})
    collected_and_compared(finished.study)
    text = notes(finished.study)
    assert "ffffffffff (uncommitted changes): 1 runs" in text
    assert "Warning: the runs come from different commits." in text


@pytest.mark.parametrize("name", ["comparison.parquet", "long.parquet", "fairness.json"])
def test_tables_need_a_collected_and_compared_study(finished, name):
    collected_and_compared(finished.study)
    (finished.study.results / name).unlink()
    with pytest.raises(ValueError, match=rf"results/two/{name}: no such file"):
        write_tables(finished.study)
    assert not (finished.study.results / "tables").exists()


def test_all_formats_are_written_and_a_second_time_with_the_same_bytes(finished):
    collected_and_compared(finished.study)
    paths = write_tables(finished.study)
    assert [path.name for path in paths] == [f"comparison.{suffix}" for suffix in ("md", "tex", "html", "csv")]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_tables(finished.study)] == before


def test_the_terminal_shows_every_number_of_the_table_and_the_folded_notes_when_asked(finished):
    collected_and_compared(finished.study)
    text = table_for_terminal(finished.study, 100)
    assert max(map(len, text.splitlines())) <= 100
    for of_backbone in lines(finished.study).values():
        for row in of_backbone.values():
            for cell in row.values():
                assert cell in text
    assert "Commits of the runs" not in text
    assert "Commits of the runs" in table_for_terminal(finished.study, 100, with_notes=True)


def test_several_datasets_have_sections_of_their_own(workdir):
    write_text(
        "config/datasets/other.yaml",
        Path("config/datasets/digits.yaml").read_text().replace("name: digits\n", "name: other\n"),
    )
    study = change_study(workdir, "datasets: [digits]", "datasets: [other, digits]")
    collected_and_compared(study)
    assert captions(study) == [
        "Accuracy and cost on other",
        "Other pairs on other",
        "Accuracy and cost on digits",
        "Other pairs on digits",
    ]


def test_a_recipe_per_backbone_keeps_one_table_in_the_papers_order(workdir):
    shutil.copy("config/recipes/short.yaml", "config/recipes/long.yaml")
    study = change_study(workdir, "depth: 6}", "depth: 6, recipe: long}")
    collected_and_compared(study)
    assert captions(study) == ["Accuracy and cost", "Other pairs"]
    assert list(lines(study)) == [MOBILE, DEIT]


def test_a_backbone_with_two_recipes_has_a_section_for_each(workdir):
    shutil.copy("config/recipes/short.yaml", "config/recipes/long.yaml")
    study = change_study(workdir, "recipes: [short]", "recipes: [short, long]")
    collected_and_compared(study)
    assert captions(study)[::2] == [
        "Accuracy and cost on digits with recipe short",
        "Accuracy and cost on digits with recipe long",
    ]


def test_the_csv_has_the_same_columns_whatever_is_missing(finished):
    empty = load_study("two", "small")
    collected_and_compared(finished.study)
    collected_and_compared(empty)
    assert read_csv(finished.study).columns.tolist() == read_csv(empty).columns.tolist()


def test_publishing_copies_tables_and_figures_under_todays_date(finished):
    collected_and_compared(finished.study)
    write_tables(finished.study)
    write_figures(finished.study)
    paths = publish(finished.study)
    day = datetime.now(UTC).date().isoformat()
    endings = (".md", ".csv", "-differences.png", "-over-epochs.png")
    assert [path.as_posix() for path in paths] == [f"docs/results/{day}-two{ending}" for ending in endings]
    assert paths[0].read_bytes() == (finished.study.results / "tables/comparison.md").read_bytes()
    assert paths[3].read_bytes() == (finished.study.results / "figures/training_curves.png").read_bytes()
    assert len(pd.read_csv(io.StringIO(paths[1].read_text()))) == 10


def test_publishing_needs_written_tables(workdir):
    with pytest.raises(ValueError, match=r"tables/comparison\.md: no such file"):
        publish(load_study("two"))
