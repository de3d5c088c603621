import pytest
import timm
import torch

import noah.models
from noah.backbones import BACKBONES
from noah.models import build_model
from noah.models.registry import default_cfgs, register

NAMES = [
    *("resnet18", "resnet50", "resnet101", "resnet152"),
    *("mobilenetv2_100", "mobilenetv2_075", "mobilenetv2_050", "mobilenetv2_035"),
    *("mobilenetv3_small", "shufflenetv2_100", "pvt_tiny", "pvt_tiny_075", "pvt_tiny_050"),
    *("deit_base_patch16_224", "deit_small_patch16_224", "deit_tiny_patch16_224"),
    *("deit_tiny_075_patch16_224", "deit_tiny_050_patch16_224"),
    *("mixer_b16_224", "mixer_s16_224", "mixer_s16_075_224", "mixer_s16_050_224"),
    *("gmlp_s16_224", "gmlp_ti16_224", "gmlp_ti16_075_224", "gmlp_ti16_050_224"),
]


LACKED = {
    *("mobilenetv3_small", "shufflenetv2_100", "pvt_tiny", "pvt_tiny_075", "pvt_tiny_050"),
    *("deit_tiny_075_patch16_224", "deit_tiny_050_patch16_224", "mixer_s16_075_224", "mixer_s16_050_224"),
    *("gmlp_ti16_075_224", "gmlp_ti16_050_224"),
}
"""Baselines that timm has no name for."""


def test_timm_lists_every_published_model():
    assert set(timm.list_models("noah_*")) == {f"noah_{name}" for name in NAMES}
    assert all(timm.is_model(f"noah_{name}") for name in NAMES)


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", 512), ("mobilenetv2_050", 1280), ("deit_tiny_075_patch16_224", 144)]
)
def test_timm_creates_the_model_of_the_name(name, channels):
    with torch.device("meta"):
        model = timm.create_model(f"noah_{name}", num_classes=10)
    assert isinstance(model.get_classifier(), noah.NOAH)
    assert (model.num_classes, model.num_features) == (10, channels)


def test_baselines_are_registered_where_timm_has_none_and_its_own_names_are_left_alone():
    ours = {name for name in default_cfgs if not name.startswith("noah_")}
    assert ours == LACKED == {name for name in NAMES if is_ours(name)}
    assert all(timm.is_model(name) for name in NAMES)


def is_ours(name):
    return timm.model_entrypoint(name).__module__.startswith("noah.")


def test_a_name_that_is_taken_is_not_registered_again():
    before = timm.model_entrypoint("resnet18")
    register("resnet18", lambda **kwargs: None)
    assert timm.model_entrypoint("resnet18") is before
    assert "resnet18" not in default_cfgs


@pytest.mark.parametrize("name", sorted(LACKED))
def test_a_registered_baseline_is_the_baseline_of_the_table(name):
    """The same parameters as `build_model` gives, and a description that names layers that are there."""
    backbone, width = next((b.name, w) for b in BACKBONES.values() for w in b.widths if b.timm[w] == name)
    with torch.device("meta"):
        timms, ours = timm.create_model(name), build_model(backbone, "baseline", width=width)
    shapes = {key.removeprefix("backbone.").replace("head.fc.", ""): v.shape for key, v in ours.state_dict().items()}
    classifier = timms.default_cfg["classifier"]
    assert {key.removeprefix(f"{classifier}."): v.shape for key, v in timms.state_dict().items()} == shapes
    assert f"{timms.default_cfg['first_conv']}.weight" in timms.state_dict()


@pytest.mark.parametrize("name", ["noah_mobilenetv3_small", "noah_pvt_tiny_050"])
def test_what_timm_says_of_a_name_is_what_the_model_says(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    cfg = timm.get_pretrained_cfg(name)
    assert (cfg.first_conv, cfg.input_size) == (model.default_cfg["first_conv"], model.default_cfg["input_size"])
    assert cfg.classifier == model.default_cfg["classifier"]


@pytest.mark.parametrize("name", sorted(default_cfgs))
def test_features_only_gives_the_bare_backbones_maps(name):
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True).eval()
        maps = model(torch.randn(1, 3, 224, 224))
    assert len(maps) >= 3
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [224 // m.shape[-1] for m in maps] == model.feature_info.reduction()


@pytest.mark.parametrize("name", ["shufflenetv2_100", "mobilenetv3_small", "pvt_tiny_050"])
def test_features_only_leaves_out_what_stands_behind_the_last_map(name):
    size = {"img_size": 64} if name.startswith("pvt") else {}
    model = timm.create_model(name, features_only=True, out_indices=(0, 2), **size).eval()
    whole = timm.create_model(name, **size).eval()
    whole.load_state_dict({**whole.state_dict(), **model.model.state_dict()})
    images = torch.randn(1, 3, 64, 64)
    expected = whole.forward_intermediates(images, indices=[0, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(model(images), expected, strict=True))
    assert sum(p.numel() for p in model.parameters()) < 0.6 * sum(p.numel() for p in whole.parameters())


def test_timm_saves_a_model_and_makes_it_again_from_the_folder(tmp_path):
    model = timm.create_model("noah_deit_tiny_050_patch16_224", num_classes=7, img_size=32, depth=1).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", checkpoint_path=tmp_path / "model.safetensors").eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))


def test_an_argument_that_nobody_takes_is_the_error_that_timm_expects():
    with pytest.raises(TypeError, match="unknown argument 'not_an_argument', expected one of"):
        timm.create_model("noah_resnet18", not_an_argument=1)


def test_a_model_is_made_where_and_as_what_it_is_asked_for():
    for name in ("noah_pvt_tiny_050", "shufflenetv2_100"):
        model = timm.create_model(name, device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


def test_timms_arguments_reach_backbone_and_head():
    model = timm.create_model("noah_deit_tiny_050_patch16_224", num_classes=10, img_size=32, drop_rate=0.1, depth=1)
    assert model.get_classifier().drop_rate == 0.1
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_timm_finds_the_input_of_a_registered_model():
    cfg = timm.get_pretrained_cfg("noah_mixer_s16_050_224")
    assert cfg.input_size == (3, 224, 224)
    assert cfg.mean == timm.get_pretrained_cfg("mixer_s16_224").mean
    assert not cfg.has_weights


def test_pretrained_weights_are_refused_clearly():
    with pytest.raises(ValueError, match=r"noah_resnet18: pretrained is True.*docs/weights\.md"):
        timm.create_model("noah_resnet18", pretrained=True)
