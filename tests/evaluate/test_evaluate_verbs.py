"""The verbs `attention`, `export` and `import-weights`: their options reach the functions behind them."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests_support import REPOSITORY
from typer.testing import CliRunner

from noah.cli import app
from noah.config import load_study
from noah.models import build_model


def noah(*arguments) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, ValueError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_attention_draws_the_runs_it_is_given(trained, shards_root):
    noah("attention", trained("noah"), trained("baseline"), "--images", 1, "--shards", shards_root, "--out", "a.svg")
    assert Path("a.svg").read_text().count("<image") == 1 + 3 * 5 + 3


def test_export_writes_the_file_and_says_how_well_it_agrees(trained):
    said = noah("export", trained("noah"), "--to", "safetensors", "--out", "model.safetensors")
    difference = re.fullmatch(r"model.safetensors: logits differ by at most (\S+)\n", said)
    assert float(difference[1]) < 1e-6  # the head's kernels add in another order
    assert "head.query.weight" in load_file("model.safetensors")
    with pytest.raises(ValueError, match=r"nothing/run\.yaml: no such file"):
        noah("export", "nothing", "--to", "pt2", "--out", "model.pt2")


def test_import_weights_writes_the_model_that_it_names(tmp_path):
    model = build_model("gmlp_tiny", "noah", width=0.5, num_classes=7)
    state = {name.removeprefix("backbone."): tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "official.pth")
    noah(
        *("import-weights", tmp_path / "official.pth", "--out", tmp_path / "ours.safetensors"),
        *("--backbone", "gmlp_tiny", "--width", 0.5, "--head", "noah", "--classes", 7),
    )
    ours = load_file(tmp_path / "ours.safetensors")
    assert ours.keys() == model.state_dict().keys()
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("verb", ["attention", "export"])
def test_the_examples_of_the_help_texts_name_what_exists(verb):
    keys = {run.key for run in load_study("digits", config_dir=REPOSITORY / "config").runs}
    assert re.search(rf"noah {verb} results/digits/runs/(\S+)", noah(verb, "--help"))[1] in keys
