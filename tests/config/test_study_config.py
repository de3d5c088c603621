"""A mistake is one line with file, field, value and expectation; a run is its resolved config."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from noah.backbones import BACKBONES, is_timm_name, split_channels
from noah.config import load_dataset, load_recipe, load_run, load_study


def edit(path: str, **changes) -> None:
    file = Path("config") / path
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


def test_default_study_has_three_families_each_with_baseline_and_noah_over_five_seeds(project):
    study = load_study("digits")
    families = {run.backbone.family for run in study.runs}
    assert families == {"cnn", "vit", "mlp"}
    for slug in {run.backbone.slug for run in study.runs}:
        arms = {run.arm for run in study.runs if run.backbone.slug == slug}
        assert {"baseline", "noah"} <= arms
    assert {run.seed for run in study.runs} == {0, 1, 2, 3, 4}


def test_every_study_recipe_and_dataset_in_the_repository_is_valid(project):
    for scale in ("full", "small"):
        for path in Path("config/studies").glob("*.yaml"):
            assert load_study(path.stem, scale).runs
    for path in Path("config/datasets").glob("*.yaml"):
        load_dataset(path.stem)
    for path in Path("config/recipes").glob("*.yaml"):
        load_recipe(path.stem)


def test_run_survives_its_yaml(project):
    for run in load_study("digits").runs:
        Path("run.yaml").write_text(run.to_yaml())
        again = load_run(Path("run.yaml"))
        assert (again.key, again.hash) == (run.key, run.hash)


def test_where_data_lies_and_how_jobs_are_cut_is_no_part_of_a_run(project):
    before = load_study("tiny").runs[0].hash
    splits = yaml.safe_load(Path("config/datasets/tiny.yaml").read_text())["splits"]
    splits = {name: {**split, "raw": {"images": f"{name}.tar"}} for name, split in splits.items()}
    edit(
        "datasets/tiny.yaml",
        root="elsewhere",
        shards_per_job=1,
        allow_bad=0.1,
        files={"other.npy": {"bytes": 7}},
        splits=splits,
    )
    assert load_study("tiny").runs[0].hash == before


def test_editing_a_recipe_changes_the_hash_of_its_runs_only(project):
    Path("config/recipes/other.yaml").write_text(Path("config/recipes/tiny.yaml").read_text())
    edit("studies/tiny.yaml", recipes=["tiny", "other"])
    before = {run.key: run.hash for run in load_study("tiny").runs}
    edit("recipes/other.yaml", lr=0.5)
    after = {run.key: run.hash for run in load_study("tiny").runs}
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {key for key in before if "/other/" in key}
    assert changed


def test_a_backbone_may_name_its_own_recipe(project):
    edit("studies/tiny.yaml", recipes=[], backbones=[{"name": "gmlp_tiny", "depth": 1, "recipe": "tiny"}])
    assert {run.key.split("/")[1:3] == ["tiny", "gmlp_tiny-d1-w1"] for run in load_study("tiny").runs} == {True}
    edit("studies/tiny.yaml", backbones=[{"name": "gmlp_tiny"}])
    with pytest.raises(ValueError, match=r"recipes: got none, expected at least one for backbone 'gmlp_tiny-w1'"):
        load_study("tiny")


def test_small_scale_replaces_keys_and_has_its_own_folder(project):
    small = load_study("tiny", "small")
    assert {run.seed for run in small.runs} == {0}
    assert small.results == Path("results/tiny-small")


def test_arm_overrides_recipe_fields(project):
    study = yaml.safe_load(Path("config/studies/tiny.yaml").read_text())
    study["arms"]["noah"]["recipe"] = {"epochs": 7}
    edit("studies/tiny.yaml", arms=study["arms"])
    assert {run.arm: run.recipe.epochs for run in load_study("tiny").runs} == {"baseline": 2, "noah": 7}


def test_paper_defaults_fill_what_an_arm_leaves_out(project):
    heads = {(run.backbone.name, run.arm): run.head for run in load_study("digits").runs}
    assert (heads["mobilenetv2", "noah"].num_heads, heads["mobilenetv2", "noah"].key_ratio) == (8, 0.25)
    assert heads["mobilenetv2", "baseline"].name == "gap"
    assert heads["deit_tiny", "baseline"].name == "token"


def test_the_papers_dropout_is_that_of_each_backbones_noah_and_has_to_be_asked_for(project):
    rows = [{"name": name} for name in ("resnet18", "mobilenetv2", "shufflenetv2")]
    arms = {"noah": {"head": "noah"}, "dropped": {"head": "baseline", "drop_rate": "paper"}}
    edit("studies/tiny.yaml", backbones=rows, arms=arms, compare=[])
    edit("datasets/tiny.yaml", image_size=64)
    rates = {(run.backbone.name, run.arm): run.head.drop_rate for run in load_study("tiny").runs}
    assert [rates[name, "dropped"] for name in ("resnet18", "mobilenetv2", "shufflenetv2")] == [0.1, 0.2, 0.0]
    assert not any(rates[row["name"], "noah"] for row in rows)
    edit("studies/tiny.yaml", backbones=[{"name": "convnext_atto"}])
    with pytest.raises(ValueError, match=r"arms.dropped.drop_rate is 'paper', which backbone 'convnext_atto' lacks"):
        load_study("tiny")


def test_an_arm_may_exist_for_some_backbones_only(project):
    arms = {"a": {"head": "gap"}, "b": {"head": "noah", "backbones": ["resnet18"]}}
    edit("studies/tiny.yaml", backbones=[{"name": "resnet18"}, {"name": "resnet50"}], arms=arms, compare=[["a", "b"]])
    found = {(run.backbone.name, run.arm) for run in load_study("tiny").runs}
    assert found == {("resnet18", "a"), ("resnet18", "b"), ("resnet50", "a")}
    edit("studies/tiny.yaml", arms={**arms, "b": {"head": "noah", "backbones": ["resnet81"]}})
    with pytest.raises(ValueError, match=r"arms.b.backbones: unknown backbone 'resnet81'.*did you mean resnet18"):
        load_study("tiny")


def test_a_backbone_may_train_on_some_datasets_only_and_with_a_recipe_for_each(project):
    Path("config/datasets/other.yaml").write_text(Path("config/datasets/tiny.yaml").read_text())
    edit("datasets/other.yaml", name="other")
    Path("config/recipes/long.yaml").write_text(Path("config/recipes/tiny.yaml").read_text())
    row = {"name": "gmlp_tiny", "depth": 1}
    rows = [{**row, "recipe": "tiny", "datasets": ["tiny"]}, {**row, "recipe": "long", "datasets": ["other"]}]
    edit("studies/tiny.yaml", datasets=["tiny", "other"], recipes=[], backbones=rows)
    pairs = {tuple(run.key.split("/")[:2]) for run in load_study("tiny").runs}
    assert pairs == {("tiny", "tiny"), ("other", "long")}
    edit("studies/tiny.yaml", backbones=[{**rows[0], "datasets": ["tinny"]}])
    with pytest.raises(ValueError, match=r"backbones.gmlp_tiny-d1-w1.datasets: unknown dataset 'tinny'.*mean tiny"):
        load_study("tiny")


MISTAKES = {
    "misspelt key": ("recipes/tiny.yaml", {"epoch": 3}, ["recipes/tiny.yaml", "'epoch'", "epochs"]),
    "wrong type": ("recipes/tiny.yaml", {"epochs": "many"}, ["recipes/tiny.yaml", "epochs", "'many'", "integer"]),
    "unknown schedule": ("recipes/tiny.yaml", {"schedule": "cosin"}, ["schedule", "'cosin'", "'cosine'"]),
    "batch does not divide": ("recipes/tiny.yaml", {"micro_batch": 5}, ["recipes/tiny.yaml", "16", "multiple", "5"]),
    "unknown recipe": ("studies/tiny.yaml", {"recipes": ["tinny"]}, ["recipes/tinny.yaml", "no such file", "tiny"]),
    "unknown dataset": ("studies/tiny.yaml", {"datasets": ["tin"]}, ["datasets/tin.yaml", "no such file", "tiny"]),
    "unknown head": ("studies/tiny.yaml", {"arms": {"a": {"head": "noa"}}}, ["studies/tiny.yaml", "'noa'", "noah"]),
    "unknown arm key": (
        "studies/tiny.yaml",
        {"arms": {"baseline": {"head": "gap", "drop": 0.1}, "noah": {"head": "noah"}}},
        ["studies/tiny.yaml", "drop"],
    ),
    "unknown backbone": (
        "studies/tiny.yaml",
        {"backbones": [{"name": "mobilenet2"}]},
        ["studies/tiny.yaml", "'mobilenet2'", "mobilenetv2", "timm"],
    ),
    "unpublished width": (
        "studies/tiny.yaml",
        {"backbones": [{"name": "mobilenetv2", "width": 0.4}]},
        ["studies/tiny.yaml", "width", "0.4", "0.35"],
    ),
    "channels do not divide": (
        "studies/tiny.yaml",
        {"arms": {"baseline": {"head": "gap"}, "noah": {"head": "noah", "num_heads": 3}}},
        ["studies/tiny.yaml", "noah", "64 channels", "num_heads 3", "32"],
    ),
    "noah's field on another head": (
        "studies/tiny.yaml",
        {"arms": {"baseline": {"head": "gap", "num_heads": 2}, "noah": {"head": "noah"}}},
        ["arms.baseline", "num_heads", "'noah'"],
    ),
    "compare names no arm": ("studies/tiny.yaml", {"compare": [["baseline", "noha"]]}, ["compare", "'noha'", "noah"]),
    "empty split": (
        "datasets/tiny.yaml",
        {"splits": {"train": {"num_shards": 1, "samples": 0, "source_images": 1}}},
        ["datasets/tiny.yaml", "splits.train.samples", "0"],
    ),
    "no test split": (
        "datasets/tiny.yaml",
        {"splits": {"train": {"num_shards": 1, "samples": 9, "source_images": 9}}},
        ["datasets/tiny.yaml", "'test'"],
    ),
    "digit larger than the scene": (
        "datasets/tiny.yaml",
        {"scenes": {"canvas": 16, "digit_px": [20, 26], "clutter": 0}},
        ["datasets/tiny.yaml", "digit_px", "26", "16"],
    ),
    "misspelt field of an arm's recipe": (
        "studies/tiny.yaml",
        {"arms": {"baseline": {"head": "gap"}, "noah": {"head": "noah", "recipe": {"epoch": 3}}}},
        ["studies/tiny.yaml", "arms.noah.recipe", "'epoch'", "epochs"],
    ),
    "a recipe field that is an argument of ours": (
        "studies/tiny.yaml",
        {"recipe": {"config_dir": "x"}},
        ["studies/tiny.yaml", "'config_dir'"],
    ),
    "misspelt required key": (
        "studies/tiny.yaml",
        {"backbones": [{"nam": "gmlp_tiny"}]},
        ["studies/tiny.yaml", "unknown key 'backbones.0.nam'"],
    ),
    "unknown init": (
        "studies/tiny.yaml",
        {"arms": {"baseline": {"head": "gap"}, "noah": {"head": "noah", "init": "smal_m"}}},
        ["arms.noah", "'smal_m'", "small_m"],
    ),
    "patches that do not divide the image": (
        "studies/tiny.yaml",
        {"backbones": [{"name": "gmlp_tiny", "patch_size": 7}]},
        ["studies/tiny.yaml", "patch_size is 7", "32 pixels"],
    ),
    "unknown published table": (
        "studies/tiny.yaml",
        {"published": "imagenett"},
        ["published", "'imagenett'", "imagenet"],
    ),
    "infinite rate": ("recipes/tiny.yaml", {"lr": float("inf")}, ["recipes/tiny.yaml", "lr", "inf", "finite"]),
    "crop range turned round": ("recipes/tiny.yaml", {"crop_scale": [2, 1]}, ["recipes/tiny.yaml", "crop_scale"]),
    "mistake in what small replaces": ("studies/tiny.yaml", {"small": {"sceds": [0]}}, ["studies/tiny.yaml", "sceds"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_file_field_value_and_expectation(project, mistake):
    path, changes, expected = MISTAKES[mistake]
    edit(path, **changes)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        load_study("tiny", "small" if "small" in mistake else "full")
    for part in expected:
        assert part in str(error.value)


def test_a_key_given_twice_is_refused(project):
    with open("config/recipes/tiny.yaml", "a") as file:
        file.write("epochs: 90\n")
    with pytest.raises(ValueError, match=r"recipes/tiny.yaml: .*twice: epochs"):
        load_study("tiny")


def test_config_loads_neither_torch_nor_timm():
    code = (
        "import sys, noah.config; noah.config.load_study('digits'); "
        "print([m for m in ('torch', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stderr


def test_published_backbones_divide_at_every_width():
    for backbone in BACKBONES.values():
        for channels in backbone.channels.values():
            keys, values = split_channels(channels, backbone.num_heads, backbone.key_ratio)
            assert keys + values == channels


def test_heads_and_inits_are_those_of_the_library():
    from noah.config.head import INITS
    from noah.heads import HEADS, baselines, noah

    assert list(INITS) == list(HEADS)
    assert set(INITS["gap"]) == set(INITS["token"]) == set(baselines.INITS)
    assert set(INITS["noah"]) == set(noah.INITS)


def test_timm_names_are_known_without_importing_timm():
    assert is_timm_name("convnext_tiny")
    assert not is_timm_name("convnext_tinny")
    assert not is_timm_name("../etc/passwd")
