"""The recipes of the paper say what was published, and every study can be expanded at both scales without data."""

import csv
import re
from pathlib import Path

import pytest
import yaml
from tests_support import REPOSITORY

from noah.config import Recipe, load_dataset, load_recipe, load_study

CONFIG = REPOSITORY / "config"
STUDIES = sorted(path.stem for path in (CONFIG / "studies").glob("*.yaml"))
STUDY_ROW = r"^\| `([a-z-]+)` \|.*\| (\d+) / (\d+) \|$"
RECIPE_OF = {
    "resnet18": "resnet",
    "resnet50": "resnet",
    "resnet101": "resnet",
    "resnet152": "resnet",
    "mobilenetv2": "mobilenetv2",
    "mobilenetv3_small": "mobilenetv3",
    "shufflenetv2": "shufflenetv2",
    "deit_base": "deit",
    "deit_small": "deit",
    "deit_tiny": "deit",
    "pvt_tiny": "pvt",
    "mixer_base": "mlp",
    "mixer_small": "mlp",
    "gmlp_small": "mlp",
    "gmlp_tiny": "mlp",
}


def header(folder: str, name: str) -> str:
    lines = (CONFIG / folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:first])


def test_every_published_row_has_its_epochs_and_accuracies_in_its_recipe():
    with open(CONFIG / "published/imagenet.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["backbone"] for row in rows} == set(RECIPE_OF)
    for row in rows:
        name = RECIPE_OF[row["backbone"]]
        assert load_recipe(name, CONFIG).epochs == int(row["epochs"])
        assert f"{float(row['top1_baseline']):.2f} / {float(row['top1_noah']):.2f}" in header("recipes", name)
        assert "published" in header("recipes", name)


def test_a_published_recipe_gives_one_process_the_batches_of_the_eight_official_ones():
    for name in set(RECIPE_OF.values()):
        recipe = load_recipe(name, CONFIG)
        assert recipe.forward_batch * 8 == recipe.batch
        assert [recipe.passes(world_size) for world_size in (1, 2, 4, 8)] == [8, 4, 2, 1]


def test_processes_that_cannot_share_a_step_evenly_are_refused():
    recipe = Recipe(epochs=1, batch=96, micro_batch=32, lr=0.1)
    with pytest.raises(ValueError, match="batch is 96, expected a multiple of micro_batch x world size = 32 x 2 = 64"):
        recipe.passes(2)
    with pytest.raises(ValueError, match=r"batch is 96, expected a multiple of micro_batch \(36\)"):
        Recipe(epochs=1, batch=96, micro_batch=36, lr=0.1)


@pytest.mark.parametrize(
    ("given", "forward_batch"),
    [({"micro_batch": 8, "accumulate": 4}, 8), ({"accumulate": 4}, 16), ({"accumulate": 1}, 64)],
)
def test_accumulate_of_older_files_is_accepted_with_one_warning_and_leaves_the_identity(project, given, forward_batch):
    fields = {"epochs": 1, "batch": 64, "lr": 0.1}
    Path("config/recipes/older.yaml").write_text(yaml.safe_dump({**fields, **given}))
    with pytest.warns(UserWarning, match=r"config/recipes/older\.yaml: accumulate is \d, which is ignored") as said:
        recipe = load_recipe("older")
    assert len(said) == 1
    assert recipe.forward_batch == forward_batch
    assert recipe == Recipe(**fields, micro_batch=recipe.micro_batch)
    assert "accumulate" not in recipe.model_dump()


@pytest.mark.parametrize("accumulate", [0, "two", None])
def test_an_accumulate_that_is_no_number_is_refused_still(accumulate):
    with pytest.raises(ValueError, match=f"accumulate is {accumulate!r}, expected none"):
        Recipe(epochs=1, batch=64, lr=0.1, accumulate=accumulate)


def test_cuda_graphs_are_refused_where_torch_computes_wrongly_or_nobody_tried():
    graphs = {"epochs": 1, "batch": 4, "lr": 0.1, "cuda_graphs": True}
    with pytest.raises(ValueError, match="cuda_graphs is true, which needs compile: true"):
        Recipe(**graphs)
    with pytest.raises(ValueError, match=r"cuda_graphs is true with micro_batch 2, expected batch \(4\)"):
        Recipe(**graphs, compile=True, micro_batch=2)
    assert Recipe(**graphs, compile=True).passes(1) == 1


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIG / "recipes").glob("*.yaml")))
def test_a_recipe_says_where_it_comes_from_and_what_to_expect(name):
    assert re.search(r"Source: .*Expected", header("recipes", name))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_asks_a_question_and_says_how_to_run_it(name):
    assert "?" in header("studies", name)
    assert re.search(r"Run: (make tables|snakemake --profile slurm)", header("studies", name))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_expands_at_both_scales_without_data_and_small_is_smaller(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    full, small = (load_study(name, scale, CONFIG) for scale in ("full", "small"))
    work = [
        sum(r.recipe.epochs * (r.dataset.splits["train"].samples or 1_000_000) for r in study.runs)
        for study in (full, small)
    ]
    assert work[1] < work[0] / 2
    for study in (full, small):
        present = {(run.dataset.name, run.backbone.slug, run.arm) for run in study.runs}
        for one, other in study.spec.compare:
            assert any((d, b, one) in present and (d, b, other) in present for d, b, _ in present)


def test_the_docs_list_every_study_with_the_number_of_its_runs():
    docs = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8")
    listed = {name: (int(full), int(small)) for name, full, small in re.findall(STUDY_ROW, docs, re.MULTILINE)}
    assert listed == {name: tuple(len(load_study(name, s, CONFIG).runs) for s in ("full", "small")) for name in STUDIES}


def test_an_arm_that_changes_the_number_of_parameters_has_a_control_of_its_size():
    for name in ("ablations", "first-experiments"):
        arms = yaml.safe_load((CONFIG / f"studies/{name}.yaml").read_text(encoding="utf-8"))["arms"]
        sized = ("split_groups", "split_key_value", "kernel_size")
        for arm, fields in arms.items():
            size = {key: value for key, value in fields.items() if key in sized or value == "concat+linear"}
            if size and fields["head"] == "noah":
                control = arms[f"{arm}-size"]
                assert control["head"] == "gap_hidden"
                assert size.items() <= control.items()


def test_a_number_of_classes_stands_for_their_names(project):
    dataset = load_dataset("digits-224", CONFIG)
    assert (dataset.num_classes, dataset.classes[0], dataset.classes[999]) == (1000, "0", "999")
    path = Path("config/datasets/tiny.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "classes": 1}))
    with pytest.raises(ValueError, match=r"datasets/tiny.yaml: classes: .*at least 2"):
        load_dataset("tiny")


def test_a_field_that_came_later_leaves_the_hash_of_older_runs_alone():
    digits = {run.key: run.hash for run in load_study("digits-published", config_dir=CONFIG).runs}
    # Of the commit that raised RESULTS_VERSION to 5. It changes with what the run trains.
    key = "digits/digits-cnn/mobilenetv2-s1-os8-w0.35/noah/s0"
    assert digits[key] == "3aecd9f3fb45236e1f96ae42a3e8d3140338e1c590762abe5fd1653571290e50"
    plain = Recipe(epochs=1, batch=2, lr=0.1)
    halves = (0.5, 0.5, 0.5)
    later = {"interpolation": "bilinear", "repeats": 3, "first_size": 16, "mean": halves, "std": halves}
    later |= {"fused": True, "compile": True, "cuda_graphs": True}
    assert not later.keys() & plain.model_dump(exclude_none=True).keys()
    assert later.keys() <= plain.model_copy(update=later).model_dump(exclude_none=True).keys()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "expected both or none"),
        ({"std": (0.5, 0.5, 0.5)}, "expected both or none"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)}, "expected numbers above 0"),
    ],
)
def test_half_a_normalisation_is_refused(fields, problem):
    with pytest.raises(ValueError, match=problem):
        Recipe(epochs=1, batch=2, lr=0.1, **fields)


def test_the_published_mlps_normalise_with_halves():
    mlp = load_recipe("mlp", CONFIG)
    assert mlp.mean == mlp.std == (0.5, 0.5, 0.5)
