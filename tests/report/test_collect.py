import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from noah import report
from noah.config import load_study
from noah.files import read_json, write_json
from noah.report.collect import COLUMNS, COST_METRICS, collect

DEIT, MOBILE = "deit_tiny-d6-w0.5", "mobilenetv2-w0.35"


def collected(finished) -> tuple[pd.DataFrame, dict]:
    collect(finished.study)
    results = finished.study.results
    return pd.read_parquet(results / "long.parquet"), read_json(results / "fairness.json")


def edit(path, **fields):
    write_json(path, {**read_json(path), **fields})


def test_the_long_table_holds_the_numbers_of_the_files(finished):
    long, _ = collected(finished)
    assert list(long.columns) == list(COLUMNS)
    row = long[(long.backbone == MOBILE) & (long.arm == "noah") & (long.seed == 2)].set_index("metric")
    assert row.loc["top1", "value"] == pytest.approx(100 * finished.right[MOBILE, "noah", 2].mean())
    assert row.loc["minival_top1", "value"] == 67
    assert row.loc["train_seconds", "value"] == 600
    assert row.loc["top1/3", "value"] == pytest.approx(100 * finished.right[MOBILE, "noah", 2][3::10].mean())


def test_the_other_weights_of_a_run_are_numbers_of_their_own(finished):
    edit(finished.folder(MOBILE, "noah", 1) / "metrics.json", other_weights={"weights": "ema", "top1": 71.5})
    long, _ = collected(finished)
    (row,) = long[long.metric == "ema_top1"].to_dict("records")
    assert (row["arm"], row["seed"], row["value"], row["status"]) == ("noah", 1, 71.5, "ok")


def test_costs_belong_to_no_seed(finished):
    long, _ = collected(finished)
    costs = long[long.metric.isin(COST_METRICS)]
    assert costs.seed.isna().all()
    assert len(costs) == 5 * len(COST_METRICS)
    assert set(long[long.seed.isna()].metric) == set(COST_METRICS)


def test_every_expected_run_appears_when_nothing_has_run(workdir):
    study = load_study("two")
    collect(study)
    long = pd.read_parquet(study.results / "long.parquet")
    assert set(long.status) == {"missing"}
    assert long.value.isna().all()
    assert len(long[long.metric == "top1"]) == len(study.runs) == 15


@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet", "arm.json", "provenance.json", "history.csv"])
def test_a_run_that_lacks_a_file_is_missing_and_says_why(finished, name):
    folder = finished.folder(MOBILE, "noah", 1)
    (folder / name).unlink()
    long, fairness = collected(finished)
    rows = long[(long.backbone == MOBILE) & (long.arm == "noah") & (long.seed == 1)]
    assert set(rows.status) == {"missing"}
    assert fairness["missing"] == {f"digits/short/{MOBILE}/noah/s1": f"no {name}"}


def test_a_run_trained_from_another_config_is_missing(finished):
    edit(finished.folder(MOBILE, "noah", 1) / "provenance.json", run_sha256="0" * 64)
    _, fairness = collected(finished)
    assert fairness["missing"] == {f"digits/short/{MOBILE}/noah/s1": "trained from another config"}


def test_a_metric_without_a_value_is_missing_alone(finished):
    edit(finished.folder(MOBILE, "noah", 1) / "metrics.json", minival_top1=None)
    long, fairness = collected(finished)
    assert long[long.status == "missing"].metric.tolist() == ["minival_top1"]
    assert fairness["missing"] == {}


def test_fairness_lists_what_differs_besides_the_head(finished):
    _, fairness = collected(finished)
    pairs = {(c["backbone"], c["from"], c["to"]): c["differences"] for c in fairness["comparisons"]}
    assert set(pairs) == {(DEIT, "baseline", "noah"), (DEIT, "patch-gap", "noah"), (MOBILE, "baseline", "noah")}
    differences = pairs[DEIT, "baseline", "noah"]
    assert differences["class_token"] == [True, False]
    assert differences["head_dropout"] == [0.0, 0.1]
    assert differences["init"] == ["trunc_normal", "small_m"]
    assert differences["parameters"] == [410_000, 410_160]
    assert differences["recipe.lr"] == [0.002, 0.001]
    assert [group["not_decayed"]["tensors"] for group in differences["weight_decay_groups"]] == [31, 30]
    assert "moved_layers" not in differences
    assert "class_token" not in pairs[DEIT, "patch-gap", "noah"]


def test_equal_origins_give_no_warning(finished):
    _, fairness = collected(finished)
    assert fairness["warnings"] == []
    assert fairness["manifests"]["digits"]["test"] == ["d" * 64]
    assert fairness["evaluated_weights"] == ["last"]
    assert fairness["seeds"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"commit": "f" * 40}, "different commits"),
        ({"dirty": True}, "uncommitted changes"),
        ({"manifests": {"train": "e" * 64, "minival": "b" * 64, "test": "d" * 64}}, "different train data of digits"),
        ({"device": "cuda"}, "different devices"),
        ({"threads": 8}, "different thread counts"),
        ({"versions": {"torch": "2.8.0"}}, "different software versions"),
        ({"evaluated_weights": "ema"}, "different kinds of weights"),
        ({"evaluated_in": "bf16"}, "evaluated in different precisions"),
    ],
)
def test_unequal_origins_are_warned_of(finished, fields, warning):
    edit(finished.folder(MOBILE, "noah", 1) / "provenance.json", **fields)
    _, fairness = collected(finished)
    assert len(fairness["warnings"]) == 1
    assert warning in fairness["warnings"][0]


def test_seeds_of_one_arm_that_were_built_differently_are_warned_of(finished):
    edit(finished.folder(MOBILE, "noah", 1) / "arm.json", init="official")
    _, fairness = collected(finished)
    assert fairness["warnings"] == [
        f"digits/short/{MOBILE}/noah/s1 was built otherwise than the other seeds of its arm (arm.json differs)"
    ]


def test_a_lacking_field_is_named(finished):
    path = finished.folder(MOBILE, "noah", 1) / "metrics.json"
    path.write_text(json.dumps({"run_sha256": "0" * 64, "top1": 3.0}))
    with pytest.raises(ValueError, match=r"s1/metrics\.json: missing key 'top5'"):
        collect(finished.study)


def test_collecting_twice_writes_the_same_bytes(finished):
    collected(finished)
    before = [(finished.study.results / name).read_bytes() for name in ("long.parquet", "fairness.json")]
    collected(finished)
    assert before == [(finished.study.results / name).read_bytes() for name in ("long.parquet", "fairness.json")]


def test_reports_load_no_torch():
    modules = ", ".join(path.stem for path in Path(report.__file__).parent.glob("[a-z]*.py"))
    assert {"collect", "comparison", "figures", "tables"} <= set(modules.split(", "))
    code = f"import sys; from noah.report import {modules}; import noah.evaluate.metrics; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_scores_and_costs_of_another_config_are_missing(finished):
    edit(finished.folder(MOBILE, "noah", 1) / "metrics.json", run_sha256="0" * 64)
    edit(finished.study.results / "cost" / f"digits-{MOBILE}.json", config_sha256="0" * 64)
    collect(finished.study)
    fairness = read_json(finished.study.results / "fairness.json")
    assert fairness["missing"] == {f"digits/short/{MOBILE}/noah/s1": "not scored since it was trained"}
    assert [cost["backbone"] for cost in fairness["cost"]] == ["deit_tiny-d6-w0.5"]
