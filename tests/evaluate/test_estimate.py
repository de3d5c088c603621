"""Estimates count what autograd keeps, give back the published runs they rest on, and yield to what was measured."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from noah.config import Recipe, load_study
from noah.evaluate.cost import count_macs
from noah.evaluate.estimate import (
    CPU_CORE,
    PASSES,
    UTILISATION,
    Device,
    find_throughput,
    images_per_second,
)
from noah.models import build_model
from noah.models.memory import kept_for_backward


class Toy(nn.Module):
    """A convolution to 5 channels, ReLU, mean, linear."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 1), nn.Linear(5, 7)

    def forward_features(self, x):
        return self.conv(x).relu()

    def forward_head(self, x):
        return self.fc(x.mean((2, 3)))


def test_kept_for_backward_counts_inputs_and_activations_once_and_weights_never():
    with torch.device("meta"):
        toy = Toy().eval()
    # The images, for the convolution's weights; the output of ReLU; the mean, for those of the linear layer.
    assert kept_for_backward(toy, 4) == {"kept": 3 * 16 + 5 * 16 + 5, "head_kept": 5}
    assert not toy.training


def test_noah_keeps_maps_for_every_head_and_class_where_the_mean_keeps_a_vector():
    options = {"width": 0.5, "depth": 1, "patch_size": 8, "img_size": 32, "num_classes": 10}
    kept = {}
    for head, arguments in {"gap": {}, "noah": {"impl": "reference"}}.items():
        with torch.device("meta"):
            model = build_model("gmlp_tiny", head, **options, **arguments).eval()
        kept[head] = kept_for_backward(model, 32)["head_kept"]
    assert kept["gap"] <= 64 * 2
    assert kept["noah"] >= 2 * 4 * 10 * 16


def test_fused_attention_keeps_no_map_of_positions_by_positions():
    with torch.device("meta"):
        model = build_model("deit_tiny", "gap", img_size=384, depth=2).eval()
    heads, positions, depth = 3, 24**2, 2
    plain, fused = (kept_for_backward(model, 384, fused_attention=on)["kept"] for on in (False, True))
    assert plain - fused >= 0.8 * depth * heads * positions**2
    assert F.scaled_dot_product_attention.__name__ == "scaled_dot_product_attention", "as it was"


@pytest.mark.parametrize(("backbone", "published"), [("resnet18", 9_760), ("resnet50", 3_050)])
def test_the_formula_gives_back_the_published_runs_that_its_constants_come_from(backbone, published):
    a100 = Device("A100", "GPU-hours", {"bf16": UTILISATION * 312e12}, 1.555e12 / PASSES)
    with torch.device("meta"):
        model = build_model(backbone, "gap", img_size=176).eval()
    macs = count_macs(model, torch.zeros(1, 3, 176, 176, device="meta"))["macs"]
    assert images_per_second(macs, kept_for_backward(model, 176)["kept"], a100, "bf16") == pytest.approx(
        published, 0.02
    )


def test_the_formula_is_within_a_quarter_of_a_published_run_that_no_constant_comes_from():
    """FFCV's ResNet50: 16 epochs in 14.9 minutes on eight A100 (libffcv/ffcv-imagenet)."""
    published = 16 * 1_281_167 / (14.9 * 60) / 8
    a100 = Device("A100", "GPU-hours", {"bf16": UTILISATION * 312e12}, 1.555e12 / PASSES)
    with torch.device("meta"):
        model = build_model("resnet50", "gap", img_size=176).eval()
    macs = count_macs(model, torch.zeros(1, 3, 176, 176, device="meta"))["macs"]
    found = images_per_second(macs, kept_for_backward(model, 176)["kept"], a100, "bf16")
    assert found == pytest.approx(published, rel=0.25)


def test_step_bytes_adds_activations_of_a_forward_batch_to_copies_of_the_weights():
    plain = Recipe(epochs=1, batch=8, micro_batch=4, lr=0.1)
    assert plain.step_bytes(parameters=10, kept=100) == 4 * 4 * 100 + 3 * 4 * 10
    averaged = plain.model_copy(update={"optimizer": "adamw", "ema_decay": 0.9, "precision": "bf16"})
    assert averaged.step_bytes(parameters=10, kept=100) == 4 * 2 * 100 + 5 * 4 * 10


def test_a_run_of_the_same_config_is_better_than_the_formula_and_another_is_not(project):
    study = load_study("tiny")
    run, model = study.runs[0], {"macs": 1_000_000, "kept": 10_000}
    estimated, basis = find_throughput(study, run, model)
    assert basis == "estimated"
    assert estimated == pytest.approx(images_per_second(1_000_000, 10_000, CPU_CORE, "fp32"))
    folder = study.results / "runs" / study.runs[1].key
    folder.mkdir(parents=True)
    Path(folder / "run.yaml").write_text(study.runs[1].to_yaml())
    pd.DataFrame({"images_per_s": [100.0, 300.0, 200.0]}).to_csv(folder / "history.csv")
    assert study.runs[1].arm == run.arm
    assert find_throughput(study, run, model) == (200.0, "measured")
    Path(folder / "run.yaml").write_text("another: config\n")
    assert find_throughput(study, run, model)[1] == "estimated"


def test_small_images_at_first_make_a_run_faster(project):
    study = load_study("tiny")
    backbone = {"name": "mobilenetv2", "width": 0.35}
    run = study.runs[0].model_copy(update={"backbone": study.runs[0].backbone.model_copy(update=backbone)})
    growing = run.model_copy(update={"recipe": run.recipe.model_copy(update={"first_size": 16})})
    model = {"macs": 1_000_000, "kept": 10_000}
    assert find_throughput(study, growing, model)[0] > 1.1 * find_throughput(study, run, model)[0]
