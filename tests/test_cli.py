"""The command line: bad input is one line on stderr and exit code 2, before anything is computed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests_support import REPOSITORY

from noah.config import load_study


def noah(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "noah.cli", *arguments], capture_output=True, text=True)


def fails_with_one_line(done: subprocess.CompletedProcess, *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    for part in parts:
        assert part in done.stderr
    assert not Path("results").exists()


def test_every_verb_explains_itself_with_an_example():
    help_text = noah("--help").stdout
    for verb in (
        "fetch",
        "index",
        "shard",
        "manifest",
        "verify",
        "plan",
        "train",
        "score",
        "cost",
        "collect",
        "compare",
        "table",
        "ui",
    ):
        assert f"\n  {verb} " in help_text
    assert "Example: noah train" in noah("train", "--help").stdout


def test_the_examples_of_the_help_texts_name_what_exists():
    keys = {run.key for run in load_study("digits", config_dir=REPOSITORY / "config").runs}
    train_help, score_help, cost_help = (
        " ".join(noah(verb, "--help").stdout.split()) for verb in ("train", "score", "cost")
    )
    assert re.search(r"Example: noah train (\S+)", train_help)[1] in keys
    assert re.search(r"Example: noah score results/digits/runs/(\S+)", score_help)[1] in keys
    backbone = re.search(r"Example: noah cost digits --dataset digits-few --backbone (\S+)", cost_help)[1]
    assert backbone in {key.split("/")[2] for key in keys}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("fetch", "digit"), ("config/datasets/digit.yaml", "no such file", "digits")),
        (("plan", "digit"), ("config/studies/digit.yaml", "no such file", "digits")),
        (("plan", "digits", "--scale", "tiny"), ("scale", "'tiny'", "small")),
        (("train", "nothing", "--study", "tiny", "--out", "out"), ("tiny.yaml", "no run 'nothing'", "tiny/tiny/")),
        (("train", "run.yaml", "--out", "out"), ("run.yaml", "no such file")),
        (("index", "digits", "validation"), ("digits", "unknown split", "'validation'", "minival")),
        (("shard", "tiny", "train", "--job", "9"), ("job 9", "0 to 1")),
        (("shard", "tiny", "train"), ("source.parquet",)),
        (("verify", "tiny"), ("manifest.json",)),
        (("track",), ("STUDY",)),
        (("compare", "tiny"), ("results/tiny/long.parquet", "noah collect")),
        (("table", "tiny"), ("results/tiny/comparison.parquet", "noah compare")),
        (("figures", "tiny"), ("results/tiny/comparison.parquet", "noah compare")),
        (("table", "tiny", "--publish", "--show"), ("--publish stands alone",)),
        (("table", "tiny", "--publish", "--against", "docs/results"), ("--publish stands alone",)),
        (("table", "tiny", "--notes"), ("--notes goes with --show",)),
        (("table", "tiny", "--against", "docs/earlier.csv"), ("docs/earlier.csv", "no such file")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) and value and value[0].isalpha() else "",
)
def test_bad_input_is_one_line_and_exit_code_2(project, arguments, parts):
    fails_with_one_line(noah(*arguments), *parts)


def test_plan_refuses_a_timm_backbone_whose_channels_do_not_divide(project):
    path = Path("config/studies/tiny.yaml")
    study = yaml.safe_load(path.read_text())
    study["backbones"] = [{"name": "resnet10t"}]
    study["arms"]["noah"]["num_heads"] = 7
    path.write_text(yaml.safe_dump(study))
    fails_with_one_line(noah("plan", "tiny"), "tiny.yaml", "arm 'noah'", "resnet10t", "512", "7")


def test_plan_prints_parameters_beside_the_published_ones(project):
    path = Path("config/studies/tiny.yaml")
    study = yaml.safe_load(path.read_text())
    study["backbones"] = [{"name": "mobilenetv2", "width": 0.35}]
    path.write_text(yaml.safe_dump(study))
    path = Path("config/datasets/tiny.yaml")
    classes = [f"class {number}" for number in range(1000)]
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "classes": classes}))
    done = noah("plan", "tiny", "--save")
    assert done.returncode == 0, done.stderr
    rows = Path("results/tiny/plan.csv").read_text().splitlines()
    assert len(rows) == 3
    assert [row.split(",")[-1] for row in rows[1:]] == ["1.68", "1.69"]
    assert [round(int(row.split(",")[10]) / 1e6, 2) for row in rows[1:]] == [1.68, 1.69]


def test_an_unwritable_folder_is_one_line(project):
    Path("results").write_text("a file where a folder should be")
    done = noah("plan", "tiny", "--save")
    assert done.returncode == 1
    assert done.stderr.startswith("error: results")
    assert done.stderr.count("\n") == 1


def test_no_verb_but_those_that_compute_loads_torch():
    code = "import sys, noah.cli; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.split() == ["False", "False"]
