"""The plan says what a study will train and take, and warns of what is known to fail."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from noah.config import load_study, train_resources
from noah.plan import add_resolution, make_plan, save_plan, show_plan
from noah.report.resolution import foresee, remarks


@pytest.fixture
def planned(project, capsys, monkeypatch):
    """planned(study key=…): the plan of the tiny study with some keys replaced, and what a wide terminal shows."""
    monkeypatch.setenv("COLUMNS", "200")

    def plan(**changes):
        path = Path("config/studies/tiny.yaml")
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))
        study = load_study("tiny")
        differences = foresee(study)
        table = add_resolution(make_plan(study), differences)
        show_plan(study, table, differences, remarks(study, differences))
        return table, capsys.readouterr().out

    return plan


def many_heads(num_heads: int) -> dict:
    return {"gap": {"head": "gap"}, "noah": {"head": "noah", "num_heads": num_heads, "key_ratio": 0.5}}


def test_hours_are_images_over_images_per_second_for_all_seeds_and_add_up(planned):
    table, text = planned()
    assert len(table) == 2
    for row in table.itertuples():
        # 48 images are three batches of 16, twice, for two seeds.
        assert row.device_hours == pytest.approx(2 * 2 * 48 / row.images_per_s / 3600)
    assert f"Total: 4 runs, {table.device_hours.sum():.2f} core-hours" in text


def test_a_run_has_a_process_per_gpu_and_the_gpu_hours_are_those_of_all(planned):
    one, text = planned(resources={"gpus": 1})
    assert "GPU-hours" in text
    assert "one H100" in text
    eight, _ = planned(resources={"gpus": 4, "nodes": 2}, recipe={"micro_batch": 2})
    assert eight.images_per_s.tolist() == pytest.approx(one.images_per_s.tolist())
    assert eight.device_hours.tolist() == pytest.approx(one.device_hours.tolist())


def test_the_plan_holds_what_a_job_asks_for(planned):
    plan, _ = planned(resources={"cpus": 2, "mem_mb": 3000})
    assert plan[["nodes", "gpus", "cpus"]].drop_duplicates().values.tolist() == [[1, 0, 2]]
    assert (plan.mem_mb >= 3000).all()
    hours = plan.device_hours / plan.runs / 2
    assert (plan.runtime_min >= 2 * 60 * hours).all()
    assert (plan.runtime_min <= 2 * 60 * hours + 1).all()


def test_a_run_that_cannot_take_one_step_is_refused(planned):
    with pytest.raises(ValueError, match=r"tiny\.yaml: arm 'baseline' .*: batch is 64, expected at most the 48 images"):
        planned(recipe={"batch": 64})


def test_a_batch_that_the_processes_do_not_make_up_is_refused(planned):
    with pytest.raises(ValueError, match="batch is 16, expected a multiple of micro_batch x world size = 8 x 3 = 24"):
        planned(recipe={"micro_batch": 8}, resources={"nodes": 3})


def test_growing_images_on_a_backbone_of_one_size_are_refused(planned):
    with pytest.raises(ValueError, match="img_size is 16, which it does not take"):
        planned(backbones=[{"name": "vit_tiny_patch16_224"}], recipe={"first_size": 16})


def test_published_parameters_stand_beside_the_papers_own_heads_only(planned):
    path = Path("config/datasets/tiny.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "classes": 1000}))
    arms = {"noah": {"head": "noah"}, "no-split": {"head": "noah", "split_groups": False}, "gap": {"head": "gap"}}
    table, _ = planned(backbones=[{"name": "mobilenetv2", "width": 0.35}], arms=arms, compare=[])
    assert dict(zip(table.arm, table.published_parameters_m.fillna(0), strict=True)) == {
        "noah": 1.69,
        "no-split": 0,
        "gap": 1.68,
    }


def test_too_few_channels_for_each_head_are_a_warning(planned):
    _, text = planned(arms=many_heads(8), compare=[])
    assert "warning: fewer than 16 channels for each head of NOAH (C/N): tiny/tiny: gmlp_tiny-d1-p8-w0.5/noah 8" in text
    _, text = planned(arms=many_heads(4), compare=[])
    assert "fewer than 16 channels" not in text


def test_few_images_per_class_for_many_heads_are_a_warning(planned):
    _, text = planned(arms=many_heads(2), compare=[])
    assert "fewer than 50 training images per class for each head of NOAH: tiny/tiny" in text
    path = Path("config/datasets/tiny.yaml")
    dataset = yaml.safe_load(path.read_text())
    dataset["splits"]["train"]["samples"] = 1000
    path.write_text(yaml.safe_dump(dataset))
    _, text = planned()
    assert "fewer than 50" not in text


def test_few_steps_per_epoch_are_a_warning(planned):
    table, text = planned()
    assert table.steps_per_epoch.tolist() == [3, 3]
    assert "warning: fewer than 10 optimizer steps per epoch" in text
    assert "tiny/tiny: gmlp_tiny-d1-p8-w0.5 3\n" in text
    arms = {"baseline": {"head": "baseline"}, "noah": {"head": "noah", "recipe": {"batch": 4}}}
    _, text = planned(arms=arms)
    assert "tiny/tiny: gmlp_tiny-d1-p8-w0.5/baseline 3\n" in text
    assert "optimizer steps" not in planned(recipe={"batch": 4})[1]


def test_what_the_study_could_find_is_shown_and_stands_in_plan_csv_beside_the_arm_that_is_compared(planned):
    _, text = planned()
    assert "warning: no verdict with 2 seeds, expected at least 3: every row" in text
    assert "resolves" not in text
    table, text = planned(seeds=[0, 1, 2])
    points = table.resolvable_points[1]
    assert f"gmlp_tiny-d1-p8-w0.5: resolves {points:.2f} points (default)" in text
    assert table.resolvable_basis.fillna("").tolist() == ["", "default"]
    assert pd.isna(table.resolvable_points[0])


def test_of_several_pairs_that_end_in_an_arm_plan_csv_has_the_largest_difference(planned):
    study = load_study("tiny")
    differences = foresee(study)
    rows = pd.concat([differences.assign(resolvable_points=points) for points in (1.0, 3.0, float("nan"))])
    assert add_resolution(make_plan(study), rows).resolvable_points.tolist()[1:] == [3.0]


def test_jobs_find_their_resources_in_the_plan_with_resolutions(planned):
    table, _ = planned(seeds=[0, 1, 2], resources={"mem_mb": 5000})
    study = load_study("tiny")
    save_plan(study, table)
    assert train_resources(study, study.runs[0]) == {"mem_mb": 5000, "runtime": 15}


def test_a_head_that_keeps_much_of_the_memory_is_a_warning(planned):
    path = Path("config/datasets/tiny.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "classes": 1000}))
    table, text = planned()
    assert (
        "the head keeps more than a quarter of a training step's memory: tiny/tiny: gmlp_tiny-d1-p8-w0.5/noah" in text
    )
    shares = dict(zip(table.arm, table.head_memory_share, strict=True))
    assert shares["baseline"] < 0.25 < shares["noah"]


def test_the_published_count_stands_beside_the_papers_own_heads_only(planned):
    path = Path("config/datasets/tiny.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "classes": 1000}))
    arms = {"gap": {"head": "gap"}, "csra": {"head": "csra"}, "noah": {"head": "noah"}}
    arms["n4"] = {"head": "noah", "num_heads": 4}
    table, _ = planned(backbones=[{"name": "mobilenetv2", "width": 0.35}], arms=arms, compare=[])
    published = dict(zip(table.arm, table.published_parameters_m, strict=True))
    assert (published["gap"], published["noah"]) == (1.68, 1.69)
    assert table.published_parameters_m.isna().sum() == 2


def test_two_recipes_of_one_model_are_two_rows(planned):
    Path("config/recipes/other.yaml").write_text(Path("config/recipes/tiny.yaml").read_text())
    table, text = planned(recipes=["tiny", "other"])
    assert len(table) == 4
    assert "tiny, recipe other" in text


def test_an_augmentation_that_cannot_be_built_is_refused_with_its_arm(planned):
    with pytest.raises(ValueError, match=r"tiny.yaml: arm 'baseline' on backbone .*rand_augment is 'nonsense'"):
        planned(recipe={"rand_augment": "nonsense"})


def test_weights_that_are_not_there_are_a_warning_and_stop_the_plan_that_jobs_rely_on(planned, monkeypatch):
    rows = [{"name": "gmlp_tiny", "depth": 1, "patch_size": 8, "weights": "$NOWHERE/gmlp.safetensors"}]
    monkeypatch.setenv("NOWHERE", "/nowhere")
    table, text = planned(backbones=rows)
    assert "warning: backbone 'gmlp_tiny-d1-p8-w1': weights: /nowhere/gmlp.safetensors: no such file" in text
    with pytest.raises(ValueError, match=r"studies/tiny.yaml: .*gmlp.safetensors: no such file"):
        save_plan(load_study("tiny"), table)
    monkeypatch.delenv("NOWHERE")
    with pytest.raises(ValueError, match="expected its variables to be set"):
        save_plan(load_study("tiny"), table)
