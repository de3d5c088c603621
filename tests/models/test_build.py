import csv
import shutil
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import yaml

from noah.backbones import BACKBONES
from noah.config import load_study
from noah.models import build_model, describe
from noah.models.mlps import create_mlp

CONFIG = Path(__file__).parents[2] / "config"

OTHERWISE_COUNTED = {
    ("deit_base", 1.0): (86_567_656, 86_573_120),  # the READMEs print the 384-pixel model
    ("deit_small", 1.0): (22_050_664, 22_056_896),  # they round the baseline up
    ("mixer_base", 1.0): (59_880_472, 59_887_472),  # they cut NOAH's, as they do for gMLP-Small
    ("gmlp_small", 1.0): (19_422_656, 19_429_656),
    ("gmlp_tiny", 0.75): (3_860_896, 3_867_896),  # they print 3.91, the official code gives this
}
"""Parameters of baseline and NOAH where one of the two is not the published number, as docs/models.md lists them."""


def published():
    with open(CONFIG / "published" / "imagenet.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["backbone"] in BACKBONES]
    return [(row["backbone"], float(row["width"]), row) for row in rows]


@cache
def on_meta(*args, **kwargs):
    with torch.device("meta"):
        return build_model(*args, **kwargs)


def test_every_published_backbone_and_width_can_be_built():
    assert {(b, w) for b, w, _ in published()} == {(b.name, w) for b in BACKBONES.values() for w in b.widths}


@pytest.mark.parametrize(("backbone", "width", "row"), published(), ids=lambda v: "" if isinstance(v, dict) else str(v))
def test_parameters_heads_and_ratio_are_the_published_ones(backbone, width, row):
    """Rounded to the printed digits; where the published numbers are otherwise, ours is pinned."""
    arms = {arm: on_meta(backbone, arm, width=width) for arm in ("baseline", "noah")}
    counts = tuple(describe(model)["parameters"] for model in arms.values())
    printed = (row["params_m_baseline"], row["params_m_noah"])
    if (backbone, width) in OTHERWISE_COUNTED:
        assert counts == OTHERWISE_COUNTED[backbone, width]
    else:
        assert tuple(f"{count / 1e6:.2f}" for count in counts) == printed
    assert {model.head_hidden_size for model in arms.values()} == {BACKBONES[backbone].channels[width]}
    head = arms["noah"].get_classifier()
    assert (head.num_heads, head.key_ratio) == (int(row["num_heads"]), float(row["key_ratio"]))


@pytest.mark.parametrize(("backbone", "width"), list(OTHERWISE_COUNTED))
def test_the_docs_list_every_count_that_is_not_the_published_one(backbone, width):
    text = (CONFIG.parent / "docs" / "models.md").read_text()
    assert all(f"{count:,}" in text for count in OTHERWISE_COUNTED[backbone, width])


def test_only_mobilenetv3_moves_a_layer_and_only_for_heads_that_do_not_begin_with_the_mean():
    arms = {(b, w, arm): on_meta(b, arm, width=w) for b, w, _ in published() for arm in ("baseline", "noah")}
    moved = {row: describe(model)["moved_layers"] for row, model in arms.items()}
    assert {row: layers for row, layers in moved.items() if layers} == {
        ("mobilenetv3_small", 1.0, "noah"): ["conv_head"]
    }


def test_the_control_of_the_moved_layer_differs_from_the_baseline_in_nothing_else():
    gap, moved, noah = (on_meta("mobilenetv3_small", head) for head in ("gap", "moved_gap", "noah"))
    assert moved.head.init == gap.head.init == "normal"
    facts = [describe(model) for model in (gap, moved, noah)]
    assert facts[1].pop("moved_layers") == facts[2]["moved_layers"] == ["conv_head"]
    assert facts[0].pop("moved_layers") == []
    assert facts[0] == facts[1]


def test_published_resnets_start_every_residual_branch_as_the_official_code_does():
    assert build_model("resnet18", num_classes=3).backbone.layer1[0].bn2.weight.all()


def test_no_noah_model_has_a_class_token_and_all_vision_transformer_baselines_have_one():
    for name, width, _ in published():
        baseline, noah = (describe(on_meta(name, head, width=width)) for head in ("baseline", "noah"))
        assert (baseline["class_token"], noah["class_token"]) == (BACKBONES[name].family == "vit", False)
        assert baseline["positions"] == noah["positions"]


@pytest.mark.parametrize(
    ("backbone", "width", "changes", "positions"),
    [
        ("mobilenetv2", 0.35, {"output_stride": 8}, 16),
        ("mobilenetv2", 0.35, {"stem_stride": 1}, 4),
        ("mobilenetv2", 0.35, {"stem_stride": 1, "output_stride": 8}, 16),
        ("mobilenetv2", 0.35, {"output_stride": 8, "dilation": 1}, 16),
        ("test_efficientnet", 1.0, {"output_stride": 8, "dilation": 1}, 16),
        ("deit_tiny", 0.5, {"depth": 2, "patch_size": 8}, 16),
        ("gmlp_tiny", 0.5, {"depth": 2, "patch_size": 8}, 16),
        ("mixer_small", 0.5, {"depth": 2, "patch_size": 4}, 64),
        ("pvt_tiny", 0.5, {}, 1),
        ("mobilenetv3_small", 1.0, {}, 1),
        ("shufflenetv2", 1.0, {}, 1),
    ],
)
@pytest.mark.parametrize("head", ["baseline", "gap", "noah"])
def test_changed_backbones_have_the_positions_they_say_and_work(backbone, width, changes, positions, head):
    model = build_model(backbone, head, width=width, num_classes=3, img_size=32, **changes)
    assert describe(model)["positions"] == positions
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    if "depth" in changes:
        assert len(model.backbone.blocks) == 2


def test_only_the_token_head_has_a_class_token_and_the_last_norm_stands_before_every_head():
    small = {"width": 0.5, "num_classes": 3, "img_size": 32, "depth": 1}
    arms = {head: build_model("deit_tiny", head, **small) for head in ("baseline", "gap", "noah")}
    assert {arm: describe(model)["class_token"] for arm, model in arms.items()} == {
        "baseline": True,
        "gap": False,
        "noah": False,
    }
    assert not any("cls_token" in name for name, _ in arms["noah"].named_parameters())
    for model in arms.values():
        features = model.forward_features(torch.randn(2, 3, 32, 32))
        torch.testing.assert_close(features.mean(-1), torch.zeros(features.shape[:2]), atol=1e-5, rtol=0)


def test_the_vit_baseline_computes_what_timms_own_model_computes():
    ours = build_model("deit_tiny", "baseline", num_classes=3, img_size=32, depth=2).eval()
    timms = timm.create_model("deit_tiny_patch16_224", num_classes=3, img_size=32, depth=2).eval()
    state = {k.removeprefix("backbone.").replace("head.fc.", "head."): v for k, v in ours.state_dict().items()}
    timms.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), timms(x))


def test_the_cnn_baseline_computes_what_timms_own_model_computes():
    ours = build_model("mobilenetv2", "baseline", width=0.35, num_classes=3).eval()
    timms = timm.create_model("mobilenetv2_035", num_classes=3).eval()
    state = {k.removeprefix("backbone.").replace("head.fc.", "classifier."): v for k, v in ours.state_dict().items()}
    timms.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), timms(x))


@pytest.mark.parametrize("name", ["mixer_b16_224", "mixer_s16_224", "gmlp_s16_224", "gmlp_ti16_224"])
def test_our_mlps_are_timms(name):
    with torch.device("meta"):
        ours, timms = create_mlp(name), timm.create_model(name)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in timms.state_dict().items()}
    assert str(ours) == str(timms)


def test_defaults_are_those_that_the_config_resolves(tmp_path):
    """A study spells out every argument of a head, a Python user may leave it to the paper: both get the same head."""
    shutil.copytree(CONFIG, tmp_path / "config")
    study = {"title": "t", "datasets": ["digits"], "recipes": ["digits-mlp"], "seeds": [0]}
    study["backbones"] = [{"name": "resnet50"}, {"name": "deit_tiny", "width": 0.5}, {"name": "gmlp_tiny"}]
    study["arms"] = {"baseline": {"head": "baseline"}, "noah": {"head": "noah"}}
    (tmp_path / "config" / "studies" / "two.yaml").write_text(yaml.safe_dump(study))
    for run in load_study("two", config_dir=tmp_path / "config").runs:
        from_config = on_meta(run.backbone.name, run.head.name, width=run.backbone.width, **run.head.kwargs)
        from_python = on_meta(run.backbone.name, run.arm, width=run.backbone.width)
        assert str(from_config) == str(from_python)
        assert from_config.get_classifier().init == from_python.get_classifier().init


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (["resnet19"], {}, "backbone is 'resnet19', expected one of resnet18, .*, or a model of timm"),
        (["resnet18", "fc"], {}, "head is 'fc', expected one of gap, token, noah"),
        (["resnet18", "token"], {}, "needs a class token, which backbone 'resnet18' does not have"),
        (["resnet18"], {"width": 0.5}, "width is 0.5, expected one of 1.0"),
        (["regnety_002"], {"width": 0.5}, "width is 0.5, expected one of 1.0"),
        (["resnet18"], {"depth": 3}, "depth is 3, expected none"),
        (["mobilenetv2"], {"patch_size": 8}, "patch_size is 8, expected none"),
        (["mobilenetv2"], {"proj_drop_rate": 0.1}, "proj_drop_rate is 0.1, expected none"),
        (["deit_tiny"], {"output_stride": 8}, "output_stride is 8, expected none"),
        (["deit_tiny"], {"stem_stride": 1}, "stem_stride is 1, expected none"),
        (["mobilenetv2"], {"dilation": 1}, "dilation is 1, expected none, or 1 with an output_stride that dilates"),
        (["mobilenetv2"], {"dilation": 2, "output_stride": 8}, "dilation is 2, expected none, or 1"),
        (["mobilenetv2"], {"stem_stride": 1, "output_stride": 32}, "output_stride is 32, expected at most 16"),
        (["deit_tiny"], {"img_size": 36, "patch_size": 8}, "img_size is 36, expected a multiple of its patch size"),
        (["resnet18"], {"num_heads": 3}, "num_heads 3 does not divide"),
        (["deit_tiny"], {"global_pool": "avg"}, "global_pool is 'avg', expected none: the head 'noah' pools"),
        (["pvt_tiny"], {"img_size": 48}, "img_size is 48, expected a multiple of 32"),
        (["pvt_tiny"], {"depth": 3}, "depth is 3, expected none"),
        (["shufflenetv2"], {"drop_path_rate": 0.1}, "drop_path_rate is 0.1, expected none"),
        (["noah_resnet18"], {}, "backbone is 'noah_resnet18', expected one of resnet18, .*, or a model of timm"),
        (["swin_tiny_patch4_window7_224", "token"], {}, "needs a class token, which backbone 'swin_tiny"),
        (["gmixer_24_224"], {"depth": 2}, "timm fixes it for this model"),
        (["resnet18.a1_in1k"], {}, "backbone is 'resnet18.a1_in1k', expected a name without a tag, 'resnet18'"),
        (["deit_tiny"], {"depth": 0}, "depth is 0, expected a number from 1 on"),
        (["gmlp_tiny"], {"depth": -1}, "depth is -1, expected a number from 1 on"),
        (["deit_tiny"], {"img_size": (64, 96)}, r"img_size is \(64, 96\), expected a number from 1 on"),
        (["resnet18"], {"img_size": 0}, "img_size is 0, expected a number from 1 on"),
        (["resnet18"], {"output_stride": 7}, "output_stride is 7, expected one of 2, 4, 8, 16, 32"),
        (["deit_tiny"], {"drop_path_rate": 1.5}, "drop_path_rate is 1.5, expected at least 0 and below 1"),
        (["deit_tiny"], {"proj_drop_rate": -0.1}, "proj_drop_rate is -0.1, expected at least 0 and below 1"),
    ],
)
def test_what_cannot_be_built_is_one_line_that_says_why(args, kwargs, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message) as error:
        build_model(*args, **kwargs)
    assert "\n" not in str(error.value)


def test_no_path_is_dropped_unless_asked_though_timms_class_would():
    from timm.layers import DropPath

    def rates(**kwargs) -> set[float]:
        with torch.device("meta"):
            model = build_model("swin_tiny_patch4_window7_224", "gap", **kwargs)
        return {module.drop_prob for module in model.modules() if isinstance(module, DropPath)}

    assert not any(rates())
    assert max(rates(drop_path_rate=0.3)) == pytest.approx(0.3)


def test_without_dilation_every_convolution_is_plain_and_the_weights_are_the_same():
    plain, dilated = (build_model("mobilenetv2", "gap", width=0.35, output_stride=8, dilation=d) for d in (1, None))
    convolutions = [m for m in plain.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {m.dilation for m in convolutions} == {(1, 1)}
    assert {max(m.dilation) for m in dilated.backbone.modules() if isinstance(m, torch.nn.Conv2d)} == {1, 2, 4}
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (plain, dilated)]
    assert shapes[0] == shapes[1]
    image = torch.zeros(1, 3, 32, 32)
    assert plain.forward_features(image).shape == dilated.forward_features(image).shape


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (["resnet18"], {"img_size": 32}, "one position: nothing to attend to; larger images or a smaller output_str"),
        (["mobilenetv2", "csra"], {"img_size": 32}, "or a smaller stem_stride or a smaller output_stride give more"),
        (["deit_tiny"], {"img_size": 16}, "larger images or a smaller patch_size give more"),
    ],
)
def test_a_head_with_hardly_a_position_to_choose_warns_of_what_gives_more(args, kwargs, message):
    with torch.device("meta"), pytest.warns(UserWarning, match=message):
        build_model(*args, **kwargs)


@pytest.mark.parametrize("head", ["gap", "gap_hidden", "token"])
def test_a_head_that_chooses_no_position_is_built_without_a_word(head, recwarn):
    with torch.device("meta"):
        build_model("deit_tiny", head, img_size=16)
        build_model("resnet18", "noah", img_size=64)
    assert not recwarn.list


def test_shapes_are_learned_without_a_copy_of_the_weights():
    """On the meta device nothing is copied anyway; so this counts what a real build allocates at its peak."""
    from noah.evaluate.cost import running_maximum

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build_model("resnet18", "gap", img_size=64)
    weights = sum(p.nbytes for p in model.parameters())
    assert weights < running_maximum(profiler) < 1.5 * weights
    assert model.on_meta()[0].backbone.conv1.weight.is_meta
    assert not model.backbone.conv1.weight.is_meta


VITS = [(name, backbone.widths[-1]) for name, backbone in BACKBONES.items() if backbone.family == "vit"]
NOT_ALIKE = {"cls_token", "pos_embed"}
"""Tensors that a backbone has with a class token only, or that have a place for it."""


@pytest.mark.parametrize(("name", "width"), [*VITS, ("eva02_tiny_patch14_224", 1.0), ("test_vit", 1.0)])
def test_all_arms_start_from_the_same_backbone(name, width):
    arms = {}
    for head in ("token", "gap", "noah"):
        if head == "token" and name.startswith("pvt"):
            continue
        torch.manual_seed(5)
        arms[head] = build_model(name, head, width=width, num_classes=7).backbone.state_dict()
    first = arms.pop("noah")
    for head, tensors in arms.items():
        unlike = {key for key in first.keys() | tensors.keys() if key not in tensors or key not in first}
        unlike |= {key for key in first.keys() & tensors.keys() if not torch.equal(first[key], tensors[key])}
        moved = {"norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias"} if head == "gap" else set()
        assert unlike <= NOT_ALIKE | moved, f"{head}: {sorted(unlike)}"
