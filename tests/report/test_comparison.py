"""comparison.parquet: every pair once, of the records of the runs that count."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_study import write_everything, write_manifest, write_run
from shown import collected_and_compared, pair_of

from noah.config import load_study
from noah.files import read_json, write_json, write_text
from noah.report.collect import collect
from noah.report.comparison import compare
from noah.report.comparison_table import COLUMNS, read_comparison, read_long
from noah.report.sharing import sharing
from noah.report.stats import conclude, mcnemar_p, measure
from noah.report.verdicts import holm, overall, verdict

DEIT, MOBILE = "deit_tiny-d6-w0.5", "mobilenetv2-w0.35"
THIRD = "resnet18-w1"


def with_third_backbone(workdir) -> None:
    path = workdir / "config/studies/two.yaml"
    write_text(path, path.read_text().replace("  - {name: mobilenetv2", "  - {name: resnet18}\n  - {name: mobilenetv2"))


def add_clusters(finished, names: list[list[str]]) -> None:
    """A column cluster in all records; image number i has names[i]."""
    for path in finished.study.results.rglob("predictions.parquet"):
        table = pq.read_table(path)
        table = table.set_column(0, "key", table["key"].cast(pa.string()))
        clusters = [names[int(key)] for key in table["key"].to_pylist()]
        pq.write_table(table.append_column("cluster", pa.array(clusters, pa.list_(pa.string()))), path)


def change_study(workdir, old: str, new: str):
    path = workdir / "config/studies/two.yaml"
    assert old in path.read_text()
    write_text(path, path.read_text().replace(old, new))
    return load_study("two")


def test_a_pair_is_the_difference_of_its_records(finished):
    found = pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah")
    one, other = finished.values(MOBILE, "baseline"), finished.values(MOBILE, "noah")
    parts = measure(one, other)
    expected = conclude(parts)
    assert found.delta == pytest.approx(other.mean() - one.mean())
    assert (found.se, found.df, found.p) == pytest.approx((expected.se, expected.df, expected.p))
    assert (found.low, found.high) == pytest.approx(expected.interval())
    assert found.half_width == pytest.approx((found.high - found.low) / 2)
    assert (found.image_variance, found.residual_variance) == (parts.image_variance, parts.residual_variance)
    assert found.seed_variance == expected.seed_variance
    assert found.verdict == verdict(expected, 3, None)
    assert (found.images, found.clusters, bool(found.clustered), found.chance) == (400, 400, False, 10)
    assert (found.status, found.seeds_from, found.seeds_to, found.seeds_expected) == ("ok", *["0;1;2"] * 3)
    assert pd.isna([found.margin, found.backbones, found.tau]).all()


def test_mcnemars_p_are_of_single_seeds(finished):
    found = pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah")
    right = finished.right
    expected = [mcnemar_p(right[MOBILE, "baseline", seed], right[MOBILE, "noah", seed]) for seed in range(3)]
    assert [float(p) for p in found.mcnemar_p_per_seed.split(";")] == pytest.approx(expected)
    assert found.mcnemar_p_median == pytest.approx(sorted(expected)[1])


def test_the_file_has_its_columns_and_types_whatever_is_missing(finished):
    collected_and_compared(finished.study)
    empty = load_study("two", "small")
    collected_and_compared(empty)
    for study in (finished.study, empty):
        frame = pd.read_parquet(study.results / "comparison.parquet")
        assert {name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS


def test_comparing_twice_writes_the_same_bytes(finished):
    collect(finished.study)
    path = compare(finished.study)
    before = path.read_bytes()
    assert compare(finished.study).read_bytes() == before


def test_every_arm_is_compared_with_the_reference_and_only_declared_pairs_are_called_so(finished):
    pairs = collected_and_compared(finished.study)
    pairs = pairs[pairs.kind == "pair"]
    named = [(p.backbone, p["from"], p["to"], p.declared) for _, p in pairs.iterrows()]
    assert named == [
        (MOBILE, "baseline", "noah", True),
        (DEIT, "baseline", "noah", True),
        (DEIT, "patch-gap", "noah", True),
        (DEIT, "baseline", "patch-gap", False),
    ]


def test_a_study_that_declares_no_pair_compares_all_arms_with_its_first(workdir):
    study = change_study(workdir, "compare: [[baseline, noah], [patch-gap, noah]]", "")
    pairs = collected_and_compared(study)
    assert pairs["from"].tolist() == ["baseline"] * 3
    assert not pairs.declared.any()


def test_holms_family_is_the_declared_pairs_of_the_study(finished):
    pairs = collected_and_compared(finished.study)
    pairs = pairs[pairs.kind == "pair"]
    declared = pairs[pairs.declared]
    assert len(declared) == 3
    assert declared.p_holm.tolist() == pytest.approx(holm(declared.p).tolist())
    assert declared.p_holm.max() > declared.p.min()
    assert pairs[~pairs.declared].p_holm.isna().all()
    assert pairs[~pairs.declared].p.notna().all()


def test_holms_family_counts_pairs_that_are_not_finished_yet(finished):
    whole = collected_and_compared(finished.study)
    shutil.rmtree(finished.folder(MOBILE, "noah", 0).parent)
    partial = collected_and_compared(finished.study)
    one = [pair_of(pairs, DEIT, "patch-gap", "noah") for pairs in (whole, partial)]
    other = [pair_of(pairs, DEIT, "baseline", "noah") for pairs in (whole, partial)]
    assert min(one[1].p_holm, other[1].p_holm) == pytest.approx(3 * min(one[1].p, other[1].p)), "three are declared"
    assert one[1].p == one[0].p
    assert pd.isna(pair_of(partial, MOBILE, "baseline", "noah").p_holm)


def test_an_arm_without_runs_has_missing_pairs_and_no_number(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0).parent)
    pairs = collected_and_compared(finished.study)
    found = pair_of(pairs, MOBILE, "baseline", "noah")
    assert (found.status, found.seeds_from) == ("missing", "0;1;2")
    assert found[["seeds_to", "delta", "low", "se", "p", "p_holm", "verdict", "minival_delta"]].isna().all()
    assert found.published_delta == 3.78
    assert pair_of(pairs, DEIT, "baseline", "noah").status == "ok"


def test_arms_may_have_other_seeds_than_each_other_and_all_of_them_count(finished):
    shutil.rmtree(finished.folder(MOBILE, "noah", 0))
    shutil.rmtree(finished.folder(MOBILE, "baseline", 2))
    found = pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah")
    one, other = finished.values(MOBILE, "baseline", (0, 1)), finished.values(MOBILE, "noah", (1, 2))
    assert (found.status, found.seeds_from, found.seeds_to) == ("partial", "0;1", "1;2")
    assert found.delta == pytest.approx(other.mean() - one.mean())
    assert found.se == pytest.approx(conclude(measure(one, other, seeds=([0, 1], [1, 2]))).se)
    assert pd.isna(found.verdict), "two seeds decide nothing"
    assert len(found.mcnemar_p_per_seed.split(";")) == 1, "one seed is of both"


def test_arms_without_a_common_seed_are_compared_all_the_same(finished):
    for arm, seeds in (("baseline", (2,)), ("noah", (0, 1))):
        for seed in seeds:
            shutil.rmtree(finished.folder(MOBILE, arm, seed))
    found = pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah")
    expected = finished.values(MOBILE, "noah", (2,)).mean() - finished.values(MOBILE, "baseline", (0, 1)).mean()
    assert found.delta == pytest.approx(expected)
    assert found[["mcnemar_p_median", "mcnemar_p_per_seed", "low", "p"]].isna().all()


def test_one_seed_has_a_difference_and_no_interval(finished):
    for seed in (0, 1):
        shutil.rmtree(finished.folder(MOBILE, "noah", seed))
    found = pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah")
    expected = finished.values(MOBILE, "noah", (2,)).mean() - finished.values(MOBILE, "baseline").mean()
    assert found.delta == pytest.approx(expected)
    assert found[["low", "high", "half_width", "se", "df", "p", "p_holm", "verdict", "seeds_needed"]].isna().all()
    assert found.image_variance > 0


def test_a_run_of_another_config_does_not_count(finished):
    path = finished.folder(MOBILE, "noah", 1) / "provenance.json"
    write_json(path, {**read_json(path), "run_sha256": "0" * 64})
    found = pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah")
    assert (found.status, found.seeds_to) == ("partial", "0;2")
    expected = finished.values(MOBILE, "noah", (0, 2)).mean() - finished.values(MOBILE, "baseline").mean()
    assert found.delta == pytest.approx(expected)


def test_a_study_without_any_run_has_its_pairs_and_no_overall(workdir):
    pairs = collected_and_compared(load_study("two"))
    assert pairs.kind.tolist() == ["pair"] * 4
    assert set(pairs.status) == {"missing"}
    assert pairs.delta.isna().all()


def test_images_of_one_source_count_together_where_records_name_it(finished):
    names = [[f"s{number % 25}"] for number in range(400)]
    add_clusters(finished, names)
    found = pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah")
    parts = measure(finished.values(MOBILE, "baseline"), finished.values(MOBILE, "noah"), sharing(names))
    assert (bool(found.clustered), found.images) == (True, 400)
    assert found.clusters == pytest.approx(25)
    assert found.se == pytest.approx(conclude(parts).se)
    assert found.image_variance == pytest.approx(parts.image_variance)


def test_a_pair_of_several_backbones_has_a_row_over_all_of_them(finished):
    pairs = collected_and_compared(finished.study)
    assert (pairs.kind == "overall").sum() == 1
    found = pair_of(pairs, "", "baseline", "noah", kind="overall")
    each = [conclude(measure(*(finished.values(b, arm) for arm in ("baseline", "noah")))) for b in (MOBILE, DEIT)]
    expected = overall(each)
    assert (found.delta, found.low, found.high, found.p) == pytest.approx(expected[:4])
    assert (found.backbones, found.wins, found.dataset, found.recipe) == (2, 2, "digits", "short")
    assert found.tau == pytest.approx(expected.tau)


def test_the_row_over_all_backbones_counts_those_it_is_the_mean_of(workdir):
    with_third_backbone(workdir)
    study = load_study("two")
    write_everything(study)
    for seed in (0, 1):
        shutil.rmtree(study.results / f"runs/digits/short/{THIRD}/noah/s{seed}")
    pairs = collected_and_compared(study)
    found = pair_of(pairs, "", "baseline", "noah", kind="overall")
    deltas = [pair_of(pairs, backbone, "baseline", "noah").delta for backbone in (MOBILE, DEIT)]
    assert found.backbones == 2
    assert found.wins == sum(delta > 0 for delta in deltas)
    assert min(deltas) <= found.delta <= max(deltas)


def test_the_margin_of_the_study_calls_what_is_within_it_equal(workdir):
    study = change_study(workdir, "title:", "margin: 60\ntitle:")
    write_manifest()
    for run in study.runs:
        write_run(study, run, share=0.6)
    found = pair_of(collected_and_compared(study), MOBILE, "baseline", "noah")
    assert (found.margin, found.verdict) == (60, "equal")
    assert pd.isna(found.seeds_needed)
    without = pair_of(collected_and_compared(change_study(workdir, "margin: 60", "")), MOBILE, "baseline", "noah")
    assert (without.delta, without.verdict) == (found.delta, "undecided")


def test_the_minivals_difference_stands_beside_that_of_the_test(finished):
    assert pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah").minival_delta == 5


def test_a_study_without_minival_scores_has_no_difference_of_them(finished):
    for path in finished.study.results.rglob("metrics.json"):
        write_json(path, {**read_json(path), "minival_top1": None})
    found = pair_of(collected_and_compared(finished.study), MOBILE, "baseline", "noah")
    assert pd.isna(found.minival_delta)
    assert found.delta > 0


def test_the_papers_numbers_stand_beside_the_papers_own_pair_only(workdir):
    pairs = collected_and_compared(load_study("two"))
    assert pair_of(pairs, MOBILE, "baseline", "noah")[["published_delta", "published_name"]].tolist() == [
        3.78,
        "MobileNetV2 (0.35x)",
    ]
    assert pair_of(pairs, DEIT, "baseline", "noah").published_delta == 5.3
    for one, other in (("patch-gap", "noah"), ("baseline", "patch-gap")):
        assert pair_of(pairs, DEIT, one, other)[["published_delta", "published_name"]].isna().all()


@pytest.mark.parametrize("switch", ["num_heads: 2", "split_key_value: false", "merge: mean"])
def test_another_noah_than_the_papers_has_no_published_difference(workdir, switch):
    study = change_study(workdir, "noah: {head: noah,", f"noah: {{head: noah, {switch},")
    assert collected_and_compared(study).published_delta.isna().all()


def test_a_study_that_names_no_published_numbers_has_none(workdir):
    assert collected_and_compared(change_study(workdir, "published: imagenet", "")).published_delta.isna().all()


def test_missing_published_numbers_are_a_clear_error(finished):
    collect(finished.study)
    Path("config/published/imagenet.csv").unlink()
    message = (
        r"config/published/imagenet\.csv: no such file, expected the published numbers that config/studies/two\.yaml"
    )
    with pytest.raises(ValueError, match=message):
        compare(finished.study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="top1_noah"), "missing column 'top1_noah'"),
        (lambda table: table.assign(top1_noah="much"), "not the published numbers .*'top1_noah'"),
    ],
)
def test_broken_published_numbers_are_a_clear_error(finished, change, message):
    collect(finished.study)
    path = Path("config/published/imagenet.csv")
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=rf"imagenet\.csv: {message}"):
        compare(finished.study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records.assign(key="x" + records["key"]), "keys differ between runs"),
        (lambda records: records.iloc[1:], "keys differ between runs: 399 records, 400 in"),
        (lambda records: records.assign(label=(records["label"] + 1) % 10), "labels differ between runs"),
    ],
)
def test_arms_predicted_on_other_images_are_refused_and_the_file_named(finished, change, message):
    path = finished.folder(MOBILE, "noah", 1) / "predictions.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    collect(finished.study)
    with pytest.raises(
        ValueError, match=rf"runs/digits/short/{MOBILE}/noah/s1/predictions\.parquet: {message}"
    ) as error:
        compare(finished.study)
    assert "\n" not in str(error.value)
    assert not (finished.study.results / "comparison.parquet").exists()


def test_records_that_vanished_since_they_were_collected_are_named(finished):
    collect(finished.study)
    (finished.folder(MOBILE, "noah", 1) / "predictions.parquet").unlink()
    with pytest.raises(ValueError, match=r"noah/s1/predictions\.parquet: no such file, though the run was collected"):
        compare(finished.study)


def test_a_comparison_needs_a_collected_study_and_its_readers_a_compared_one(workdir):
    study = load_study("two")
    with pytest.raises(ValueError, match=r"results/two/long\.parquet: no such file, expected the output of `noah coll"):
        compare(study)
    with pytest.raises(ValueError, match=r"results/two/comparison\.parquet: no such file, expected .* `noah compare`"):
        read_comparison(study)


@pytest.mark.parametrize(
    ("name", "read", "column"),
    [("comparison.parquet", read_comparison, "delta"), ("long.parquet", read_long, "value")],
)
def test_another_table_in_its_place_is_named(finished, name, read, column):
    collected_and_compared(finished.study)
    path = finished.study.results / name
    good = pd.read_parquet(path)
    for bad in (good.drop(columns=column), good.assign(**{column: "much"})):
        bad.to_parquet(path, index=False)
        with pytest.raises(ValueError, match=rf"{name}: not the output of `noah co") as error:
            read(finished.study)
        assert "\n" not in str(error.value)
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=rf"{name}: not the output of `noah co"):
        read(finished.study)


def test_each_recipe_of_a_backbone_has_pairs_and_an_overall_of_its_own(finished):
    shutil.copy("config/recipes/short.yaml", "config/recipes/long.yaml")
    study = change_study(Path("."), "recipes: [short]", "recipes: [short, long]")
    pairs = collected_and_compared(study)
    of_recipe = pairs[pairs.kind == "pair"].groupby("recipe").status.unique()
    assert {recipe: list(status) for recipe, status in of_recipe.items()} == {"short": ["ok"], "long": ["missing"]}
    assert pairs[pairs.kind == "overall"].recipe.tolist() == ["short"]


def test_mean_average_precision_is_compared_by_the_same_estimator(mixed):
    pairs = read_comparison(mixed)
    found = pair_of(pairs[pairs.dataset == "several"], MOBILE, "baseline", "noah")
    folders = [mixed.results / "runs" / run.key for run in mixed.runs if run.dataset.multi_label]
    scores = {
        arm: [
            read_json(folder / "metrics.json")["map"]
            for folder in folders
            if folder.parts[-2:-1] == (arm,) and MOBILE in folder.parts
        ]
        for arm in ("baseline", "noah")
    }
    assert [len(of) for of in scores.values()] == [3, 3]
    assert found.delta == pytest.approx(np.mean(scores["noah"]) - np.mean(scores["baseline"]))
    assert (found.score, found.verdict, found.minival_delta) == ("map", "ahead", 5)
    assert found[["mcnemar_p_median", "mcnemar_p_per_seed", "published_delta"]].isna().all()
    assert found.image_variance > 0


def test_a_comparison_of_another_form_of_the_study_is_refused(finished):
    collected_and_compared(finished.study)
    path = finished.study.path
    write_text(path, path.read_text().replace("seeds: [0, 1, 2]", "seeds: [0, 1]"))
    with pytest.raises(ValueError, match=r"comparison\.parquet: of another form of .*two\.yaml.*compare again"):
        read_comparison(load_study("two"))
    compare(load_study("two"))
    assert set(read_comparison(load_study("two")).query("kind == 'pair'").seeds_to) == {"0;1"}
