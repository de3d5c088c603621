import pytest
import timm
import torch

import noah.models

NAMES = [
    *("resnet18", "resnet50", "resnet101", "resnet152"),
    *("mobilenetv2_100", "mobilenetv2_075", "mobilenetv2_050", "mobilenetv2_035"),
    *("deit_base_patch16_224", "deit_small_patch16_224", "deit_tiny_patch16_224"),
    *("deit_tiny_075_patch16_224", "deit_tiny_050_patch16_224"),
    *("mixer_b16_224", "mixer_s16_224", "mixer_s16_075_224", "mixer_s16_050_224"),
    *("gmlp_s16_224", "gmlp_ti16_224", "gmlp_ti16_075_224", "gmlp_ti16_050_224"),
]


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
    with pytest.raises(ValueError, match="noah_resnet18: pretrained is True"):
        timm.create_model("noah_resnet18", pretrained=True)
