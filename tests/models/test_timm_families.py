"""One model of as many families of timm as can be had cheaply: which take a head, and what is said of the others."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from noah.models import build_model, describe
from noah.models.pretrained import load_backbone

PLAIN = {
    "NCHW": [
        *("test_resnet", "resnetv2_18", "regnetx_002", "test_efficientnet", "test_byobnet", "cs3darknet_focus_s"),
        *("dla46x_c", "focalnet_tiny_srf", "mobilevit_xxs", "test_nfnet", "pvt_v2_b0", "res2net50_14w_8s"),
        *("resnest14d", "rexnet_100", "selecsls42", "legacy_seresnet18", "shvit_s1", "skresnet18", "starnet_s050"),
        *("swiftformer_xs", "ese_vovnet19b_slim_dw", "xception41p", "visformer_tiny"),
    ],
    "NHWC": ["swin_tiny_patch4_window7_224"],
    "NLC": ["test_vit", "gmixer_12_224", "efficientformer_l1", "levit_128s"],
}
"""Layout of the features -> models with nothing but pooling behind them."""

MORE = {
    "NCHW": [
        *("mnasnet_050", "tinynet_e", "eca_botnext26ts_256", "efficientformerv2_s0", "efficientvit_m0", "gcvit_xxtiny"),
        *("hrnet_w18_small", "tresnet_m", "legacy_xception", "samvit_base_patch16_224", "repvit_m0_9", "nest_tiny"),
        *("levit_conv_128s", "fastvit_t8", "inception_v3", "inception_v4", "inception_resnet_v2", "densenet121"),
        *("swinv2_cr_tiny_224", "convmixer_1024_20_ks9_p14", "cspnext_tiny", "dpn48b", "iformer_t", "nextvit_small"),
        *("maxvit_pico_rw_256", "mobilenetv5_base", "nasnetalarge", "pnasnet5large"),
    ],
    "NHWC": ["swinv2_tiny_window8_256", "sequencer2d_s"],
    "NLC": ["resmlp_12_224", "mvitv2_tiny", "vit_tiny_r_s16_p8_224", "twins_svt_small"],
}
"""The same for the full count."""


def walked(families):
    return [(layout, name) for layout, names in families.items() for name in names]


PREFIXED = {
    "test_vit2": 1,  # timm fixes its class token
    "beit_base_patch16_224": 1,
    "deit_tiny_distilled_patch16_224": 2,  # class and distillation token
    "vit_small_patch14_reg4_dinov2": 4,  # registers; its class token is left out
    "volo_d1_224": 1,
    "xcit_nano_12_p16_224": 1,
}
"""Model -> tokens in front of the positions, which the head does not see."""

MOVED = {
    "test_convnext": ["head.norm"],
    "fasternet_t0": ["conv_head"],
    "ghostnet_050": ["conv_head"],
    "hiera_tiny_224": ["head.norm"],
    "mobilenetv3_small_050": ["conv_head"],
    "mobilenetv4_conv_small_035": ["conv_head", "norm_head"],
    "poolformerv2_s12": ["head.norm"],
    "test_mambaout": ["head.norm", "head.pre_logits.fc"],
    "test_vit_relpos": ["fc_norm"],
}
"""Model -> layers between timm's features and classifier."""

NORMED = {
    "beit_base_patch16_224": {"depth": 1},
    "eva02_tiny_patch14_224": {"depth": 2},
    "vitamin_small_224": {},
}
"""Models that normalise the mean of their positions, made smaller where they can be."""

MORE_MOVED = {
    "cpubone_nano": [
        "head.in_conv.conv",
        "head.in_conv.norm",
        "head.pre_classifier.linear",
        "head.pre_classifier.norm",
    ],
    "csatv2": ["head.norm"],
    "davit_tiny": ["head.norm"],
    "edgenext_xx_small": ["head.norm"],
    "fbnetv3_b": ["conv_head"],
    "hardcorenas_a": ["conv_head"],
    "hgnetv2_b0": ["head.last_conv.0", "head.last_conv.2"],
    "lcnet_050": ["conv_head"],
    "lcnetv2_small": ["conv_head"],
    "lowformer_b0": ["in_conv.conv", "in_conv.norm", "pre_classifier.0", "pre_classifier.1"],
    "rdnet_tiny": ["head.norm"],
    "repghostnet_050": ["conv_head"],
    "sam2_hiera_tiny": ["head.norm"],
    "tiny_vit_5m_224": ["head.norm"],
}
"""The same for the full count."""

REFUSED = {
    "crossvit_tiny_240": "gives features list, expected",
    "efficientvim_m1": "gives features list, expected",
    "efficientvit_b0": "do not keep the positions",
    "inception_next_atto": "do not keep the positions",
    "pit_ti_224": "hands on its class token alone",
    "vgg11": "do not keep the positions",
    "mobilenetv5_300m_enc": "no classifier in timm, expected a model with one",
    "qwen3_vit_88m_enc": "no classifier in timm, expected a model with one, such as 'qwen3_vit_88m'",
}


def on_meta(name, head="noah", **kwargs):
    with torch.device("meta"):
        return build_model(name, head, num_classes=3, **({"num_heads": 1} if head == "noah" else {}), **kwargs)


def test_at_least_forty_families_are_walked():
    names = [*(name for _, name in walked(PLAIN)), *PREFIXED, *MOVED, *NORMED]
    assert len({timm.model_entrypoint(name).__module__ for name in names}) >= 40


@pytest.mark.parametrize(
    ("layout", "name"), [*walked(PLAIN), *(pytest.param(*case, marks=pytest.mark.long) for case in walked(MORE))]
)
def test_a_head_stands_on_the_features_as_they_are(layout, name):
    model = on_meta(name)
    assert (model.layout, describe(model)["moved_layers"]) == (layout, [])
    shadow, image = model.on_meta()
    features = shadow.forward_features(image)
    assert (features.ndim == 3) == (layout == "NLC")
    assert features.shape[1 if features.ndim == 4 else -1] == describe(model)["in_features"]
    assert features[0].numel() == describe(model)["positions"] * describe(model)["in_features"]
    assert shadow.forward_head(features).shape == (1, 3)


@pytest.mark.parametrize(("name", "prefix"), PREFIXED.items())
def test_class_distillation_and_register_tokens_are_no_positions(name, prefix):
    model = on_meta(name)
    shadow, image = model.on_meta()
    tokens = shadow.backbone.forward_features(image).shape[1]
    assert shadow.forward_features(image).shape[1] == describe(model)["positions"] == tokens - prefix
    assert shadow(image).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "layers"), [*MOVED.items(), *(pytest.param(*c, marks=pytest.mark.long) for c in MORE_MOVED.items())]
)
def test_layers_behind_timms_features_stand_in_front_of_the_head_and_are_named(name, layers):
    model = on_meta(name)
    assert describe(model)["moved_layers"] == layers
    shadow, image = model.on_meta()
    assert shadow.forward_features(image)[0].numel() == describe(model)["positions"] * model.num_features
    assert shadow(image).shape == (1, 3)
    kept = on_meta(name, "gap")
    assert describe(kept)["moved_layers"] == []
    assert describe(kept)["in_features"] == describe(model)["in_features"]


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_a_family_that_no_head_fits_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=f"backbone '{name}' .*{message}") as error:
        on_meta(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        *("test_resnet", "test_byobnet", "test_convnext", "test_mambaout", "test_vit_relpos"),
        *("mobilenetv3_small_050", "starnet_s050"),
    ],
)
def test_models_train_and_their_gap_baseline_computes_what_timms_own_computes(name):
    side = 160 if "vit_" in name else 64
    images, shape = torch.randn(2, 3, side, side), {"num_classes": 3, "img_size": side}
    noah = build_model(name, num_heads=1, **shape).eval()
    noah(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in noah.parameters())
    gap = build_model(name, "gap", **shape).eval()
    timms = timm.create_model(name, num_classes=3, global_pool="avg").eval()
    timms.load_state_dict(dict(zip(timms.state_dict(), gap.state_dict().values(), strict=True)))
    torch.testing.assert_close(gap(images), timms(images))


@pytest.mark.parametrize("name", ["levit_128s", "xcit_nano_12_p16_224", "test_vit2"])
def test_an_image_of_a_size_that_does_not_fit_is_refused_in_one_line(name):
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=f"backbone '{name}': .*(img_size is 37|divide image)") as error,
    ):
        build_model(name, img_size=37)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "fields"), NORMED.items())
def test_a_mean_that_timm_normalises_afterwards_is_normalised_afterwards(name, fields):
    token = {"class_token": False} if name.startswith("eva") else {}  # ours has one only where the head takes it
    theirs = timm.create_model(name, num_classes=3, **fields, **token).eval()
    with torch.no_grad():
        for parameter in theirs.fc_norm.parameters():
            parameter.add_(torch.rand_like(parameter))
    side = theirs.default_cfg["input_size"][-1]
    images = torch.randn(2, 3, side, side)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("head.")}
    gap = build_model(name, "gap", num_classes=3, **fields).eval()
    gap.backbone.load_state_dict(state)
    gap.head.fc.load_state_dict(theirs.head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(gap(images), theirs(images))
    assert gap.moved_layers == []
    noah = build_model(name, "noah", num_classes=3, **fields, num_heads=1)
    assert noah.moved_layers == ["fc_norm"]


def test_weights_of_a_model_that_normalises_its_mean_fit_a_head_in_front_of_which_every_position_is(tmp_path):
    theirs = timm.create_model("eva02_tiny_patch14_224", depth=2)
    with torch.no_grad():
        theirs.fc_norm.weight.add_(1)
    save_file(theirs.state_dict(), tmp_path / "eva.safetensors")
    for head in ("gap", "noah"):
        model = build_model("eva02_tiny_patch14_224", head, num_classes=3, depth=2)
        load_backbone(model, tmp_path / "eva.safetensors")
        norm = model.backbone.fc_norm if head == "gap" else model.backbone.norm
        assert torch.equal(norm.weight, theirs.fc_norm.weight)


def test_a_class_token_is_no_position_whatever_timm_calls_it():
    assert build_model("coat_lite_tiny", "gap", num_classes=3).positions == 49


def test_a_norm_without_weights_behind_a_map_that_timm_flattens_is_applied_behind_the_mean_or_to_every_position():
    theirs = timm.create_model("qwen3_vit_88m", num_classes=3, depth=1).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("head.")}
    images = torch.randn(2, 3, 64, 64)
    gap, noah = (build_model("qwen3_vit_88m", head, num_classes=3, depth=1).eval() for head in ("gap", "noah"))
    for model in (gap, noah):
        model.backbone.load_state_dict(state)
    gap.head.fc.load_state_dict(theirs.head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(gap(images), theirs(images))
        tokens = noah.forward_features(images)
        torch.testing.assert_close(tokens, theirs.norm(theirs.forward_features(images).flatten(1, 2)))
        assert noah(images).shape == (2, 3)
