"""`noah plan --on`: what a node has to deliver follows from the plan, and what is not known is said."""

import json
from pathlib import Path

import pytest

from noah.config import load_study
from noah.evaluate.estimate import images_per_second
from noah.plan import make_plan
from noah.plan.machines import CARDS, parse_node
from noah.plan.scale import PHOTO_BYTES, decoded_per_core_s, image_bytes, scale_lines, scale_rows

H100X8 = parse_node("h100x8")


@pytest.fixture
def planned(project):
    study = load_study("tiny")
    return study, make_plan(study)


def test_a_node_is_a_card_and_how_many():
    assert (H100X8.card, H100X8.gpus) == (CARDS["h100"], 8)
    assert parse_node("A100-80x4").card.memory_gib == 80
    for text in ("h100", "v100x8", "h100x0", "x8"):
        with pytest.raises(ValueError, match=f"--on is '{text}', expected a card and how many, such as h100x8"):
            parse_node(text)


def test_hours_and_rates_are_those_of_the_speed(planned):
    study, plan = planned
    rows = scale_rows(study, plan, H100X8)
    assert len(rows) == len(plan)
    for row, of_plan in zip(rows.itertuples(), plan.itertuples(), strict=True):
        run = next(run for run in study.runs if run.arm == row.arm)
        kept = of_plan.kept_for_backward - of_plan.head_kept_for_backward
        speed = images_per_second(of_plan.macs, kept, H100X8.device, run.recipe.precision)
        assert row.images_per_s == pytest.approx(speed)
        images = run.recipe.epochs * run.dataset.training_images() * of_plan.runs
        assert row.gpu_hours == pytest.approx(images / speed / 3600)
        assert row.node_images_per_s == pytest.approx(8 * speed)
        assert row.node_mb_per_s == pytest.approx(8 * speed * PHOTO_BYTES / 1e6)
        assert row.cores_per_gpu == pytest.approx(speed / decoded_per_core_s(run))
        copies = {"sgd": 2, "adamw": 3}[run.recipe.optimizer] + (run.recipe.ema_decay is not None)
        assert row.checkpoint_mb == pytest.approx(copies * 4 * of_plan.parameters / 1e6)


def test_bytes_of_an_image_are_those_of_the_shards_that_are_here(planned):
    study, _ = planned
    (dataset,) = study.datasets.values()
    assert image_bytes(dataset) == (PHOTO_BYTES, "assumed")
    manifest = Path("shards/tiny/train/manifest.json")
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"shards": [{"bytes": 100, "samples": 4}, {"bytes": 300, "samples": 4}]}))
    assert image_bytes(dataset) == (50, "measured")


def test_what_is_assumed_and_what_does_not_fit_is_said(planned):
    study, plan = planned
    lines = "\n".join(scale_lines(study, plan, H100X8))
    assert "Assumed: 115 KB an image" in lines
    assert "does not fit" not in lines
    plan["parameters"] = 10**11
    assert "warning: a step does not fit into 80 GiB (!): " in "\n".join(scale_lines(study, plan, H100X8))


def test_rand_augment_and_small_photos_change_what_a_core_decodes(planned):
    run = planned[0].runs[0]
    slow = run.model_copy(update={"recipe": run.recipe.model_copy(update={"rand_augment": "rand-m9"})})
    assert decoded_per_core_s(slow) == pytest.approx(0.6 * decoded_per_core_s(run))
