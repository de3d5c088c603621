"""What a study could find is said before it is trained, from an earlier run or from a stated default."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from noah.config import load_study
from noah.files import write_json, write_text
from noah.report import comparison
from noah.report.collect import collect
from noah.report.power import expected_error, floor, resolvable
from noah.report.resolution import (
    SPREAD,
    count_test_images,
    default_spread,
    foresee,
    measured_spread,
    remarks,
)
from noah.report.stats import Parts, conclude
from noah.report.verdicts import spread_of

ENTRY = {"seeds_from": "0;1;2", "seeds_to": "0;1;2", "images": 2000, "clusters": 300.0}
ENTRY |= {"seed_variance": 0.6, "image_variance": 0.5, "residual_variance": 0.2}
NAME = {"kind": "pair", "dataset": "digits", "recipe": "short", "backbone": "mobilenetv2-w0.35"}
NAME |= {"from": "baseline", "to": "noah"}


def change(path: str, **keys) -> None:
    write_text(path, yaml.safe_dump({**yaml.safe_load(Path(path).read_text()), **keys}))


def write_earlier(study: str, age_s: float = 0, **changes) -> Path:
    """results/{study}/comparison.parquet with one row, written so long ago."""
    path = Path("results") / study / "comparison.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{**NAME, **ENTRY, **changes}]).to_parquet(path)
    os.utime(path, (2e9 - age_s, 2e9 - age_s))
    return path


def bases() -> dict[tuple[str, str], str]:
    """(backbone, from) -> basis of study two."""
    found = foresee(load_study("two"))
    return dict(zip(zip(found["backbone"], found["from"], strict=True), found["basis"], strict=True))


def test_what_an_earlier_comparison_says_is_what_its_seeds_said():
    one, other = (61.0, 62.5, 61.2), (63.0, 64.5, 65.5)
    parts = Parts(one, other, 0.0, 3, image_variance=0.5, residual_variance=0.2, images=2000, clusters=300.0)
    spread = measured_spread({**ENTRY, "seed_variance": conclude(parts).seed_variance}, None)
    own = spread_of(parts)
    for seeds in (3, 5, 20):
        assert expected_error(spread, seeds) == pytest.approx(expected_error(own, seeds), rel=0.01)
        assert resolvable(spread, seeds) == pytest.approx(resolvable(own, seeds), rel=0.01)


@pytest.mark.parametrize(("seeds", "images"), [(3, 10**6), (3, 1000), (5, 10**6), (10, 300)])
def test_a_difference_of_that_size_is_found_in_four_of_five_studies(seeds, images):
    rng, spread, found = np.random.default_rng(0), default_spread(images), 0
    for _ in range(3000):
        truth = resolvable(spread, seeds) + rng.normal(0, spread.images**0.5)
        one, other = rng.normal(0, SPREAD, seeds), rng.normal(truth, SPREAD, seeds)
        parts = Parts(tuple(one), tuple(other), 0.0, seeds, spread.images, 0.0, images, images)
        found += conclude(parts).p < 0.05
    assert found / 3000 == pytest.approx(0.8, abs=0.03)


def test_one_or_two_seeds_resolve_nothing():
    assert math.isnan(resolvable(default_spread(1000), 1))
    assert math.isnan(resolvable(default_spread(1000), 2))
    assert resolvable(default_spread(1000), 3) > 0


def test_seeds_and_images_make_it_smaller_but_seeds_not_below_what_the_images_leave_open():
    assert resolvable(default_spread(1000), 10) < resolvable(default_spread(1000), 3)
    assert resolvable(default_spread(10_000), 3) < resolvable(default_spread(1000), 3)
    assert resolvable(default_spread(1000), 10**6) > floor(default_spread(1000)) > 1.6


def test_more_test_images_than_in_the_earlier_run_count():
    same, twice = measured_spread(ENTRY, 2000), measured_spread(ENTRY, 4000)
    assert same == measured_spread(ENTRY, None)
    assert (same.seed, same.images, same.residual) == pytest.approx((0.9, 0.3, 0.3))
    assert (twice.seed, twice.images, twice.clusters) == pytest.approx((0.9, 0.15, 600))


def test_two_seeds_or_broken_numbers_say_nothing_of_a_spread():
    assert measured_spread({**ENTRY, "seeds_to": "0;1"}, 2000) is None
    assert measured_spread({**ENTRY, "seed_variance": float("nan")}, 2000) is None
    assert measured_spread({**ENTRY, "image_variance": float("inf")}, 2000) is None
    assert measured_spread({**ENTRY, "images": 0}, 2000) is None


def test_every_declared_pair_of_every_row_has_its_difference_by_default(workdir):
    found = foresee(load_study("two"))
    assert found[["backbone", "from", "to"]].values.tolist() == [
        ["mobilenetv2-w0.35", "baseline", "noah"],
        ["deit_tiny-d6-w0.5", "baseline", "noah"],
        ["deit_tiny-d6-w0.5", "patch-gap", "noah"],
    ]
    assert set(found["basis"]) == {"default"}
    # 2,000 scenes of 300 digits.
    assert found["resolvable_points"].tolist() == pytest.approx([resolvable(default_spread(300), 3)] * 3)


def test_an_earlier_run_of_the_same_backbone_recipe_and_pair_takes_the_place_of_the_default(workdir):
    write_earlier("pilot")
    found = foresee(load_study("two"))
    assert found["basis"].tolist() == ["results/pilot", "default", "default"]
    assert found["resolvable_points"][0] == pytest.approx(resolvable(measured_spread(ENTRY, 2000), 3))
    write_earlier("pilot", recipe="long")
    assert set(bases().values()) == {"default"}


def test_a_finished_study_is_its_own_basis(finished):
    collect(finished.study)
    comparison.compare(finished.study)
    assert set(bases().values()) == {"results/two"}


def test_the_study_itself_comes_first_and_then_the_newest(workdir):
    row = ("mobilenetv2-w0.35", "baseline")
    write_earlier("older", age_s=100)
    write_earlier("newer")
    assert bases()[row] == "results/newer"
    write_earlier("two", age_s=200)
    assert bases()[row] == "results/two"
    write_earlier("two", age_s=200, seeds_from="0", seeds_to="0")
    assert bases()[row] == "results/newer"


def test_a_run_with_another_recipe_of_the_same_name_is_no_basis(workdir):
    row, study = ("mobilenetv2-w0.35", "baseline"), load_study("two")
    write_earlier("pilot")
    run = next(run for run in study.runs if run.backbone.name == "mobilenetv2" and run.arm == "noah")
    path = Path("results/pilot/runs") / run.key / "run.yaml"
    write_text(path, run.to_yaml())
    assert bases()[row] == "results/pilot"
    change(path, recipe={**yaml.safe_load(run.to_yaml())["recipe"], "epochs": 1})
    assert bases()[row] == "default"
    write_text(path, "no mapping")
    assert bases()[row] == "default"


def test_a_comparison_that_cannot_be_read_counts_as_none(workdir):
    write_earlier("pilot").write_bytes(b"PAR1 and nothing else")
    pd.DataFrame({"kind": ["pair"]}).to_parquet(write_earlier("old"))
    assert set(bases().values()) == {"default"}


def test_test_images_are_counted_by_the_yaml_else_by_the_shards_else_unknown(workdir):
    change("config/datasets/cifar10.yaml", splits={"train": {"num_shards": 1}, "test": {"num_shards": 1}})
    change("config/studies/two.yaml", datasets=["cifar10"])
    study = load_study("two")
    assert count_test_images(load_study("rivals").datasets["digits"]) == 2000
    assert count_test_images(study.datasets["cifar10"]) is None
    found = foresee(study)
    assert found["resolvable_points"].isna().all()
    assert "number of test images" in "\n".join(remarks(study, found))
    manifest = Path("shards/cifar10/test/manifest.json")
    write_json(manifest, {"samples": 1234})
    assert count_test_images(study.datasets["cifar10"]) == 1234
    write_json(manifest, {"samples": "many"})
    with pytest.raises(ValueError, match=r"test/manifest.json: samples: got 'many', expected a number"):
        foresee(study)


def said(**changes) -> str:
    """The remarks on study two with some keys replaced."""
    change("config/studies/two.yaml", **changes)
    study = load_study("two")
    return "\n".join(remarks(study, foresee(study)))


def test_fewer_than_three_seeds_are_a_warning(workdir):
    assert "warning: no verdict with 1 seed, expected at least 3: every row" in said(seeds=[0])
    assert "warning: no verdict with 2 seeds, expected at least 3: every row" in said(seeds=[0, 1])
    assert "no verdict" not in said(seeds=[0, 1, 2])


def test_a_test_split_too_small_for_the_margin_is_a_warning_that_names_its_rows(workdir):
    write_earlier("pilot", image_variance=0.001, residual_variance=0.0, seed_variance=0.001)
    text = said(margin=1.0)
    assert "warning: too few test images for a margin of 1.0 points" in text
    assert "digits/short/deit_tiny-d6-w0.5 3.01" in text
    assert "mobilenetv2" not in text
    assert "warning: too few test images" not in said(margin=4.0)


def test_a_resolvable_difference_larger_than_the_margin_is_a_warning_that_names_its_rows(workdir):
    text = said(margin=4.0)
    assert (
        "warning: only a difference larger than the margin of 4.0 points can be found: every row (up to 5.69)" in text
    )
    assert "warning" not in said(margin=6.0)


def test_what_the_numbers_rest_on_is_said(workdir):
    text = said()
    assert "a true difference of x is found in 80% of studies with 3 seeds (two-sided 5%)" in text
    assert "default: no earlier run; assumed are a spread over seeds of 1.0 points for each arm, and 10% of" in text
    assert "results/…" not in text
    write_earlier("pilot")
    assert "results/…: as an earlier run" in said()


def test_a_study_that_declares_no_pair_has_nothing_to_resolve(workdir):
    assert said(compare=[], seeds=[0]) == ""
