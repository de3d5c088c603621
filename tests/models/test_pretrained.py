"""Backbones that start from trained weights."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from noah.models import build_model
from noah.models.pretrained import load_backbone

SMALL = {"num_classes": 3, "img_size": 32}


def test_a_backbone_of_ours_starts_from_another_arms_weights(tmp_path):
    one, other = (build_model("mobilenetv2", head, width=0.35, **SMALL) for head in ("gap", "noah"))
    save_file(one.state_dict(), tmp_path / "gap.safetensors")
    load_backbone(other, tmp_path / "gap.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(one.eval().forward_features(images), other.eval().forward_features(images))


def test_a_timm_model_with_its_classifier_fits_without_it(tmp_path):
    trained = timm.create_model("resnet18", num_classes=7).eval()
    save_file(trained.state_dict(), tmp_path / "resnet18.safetensors")
    model = build_model("resnet18", "noah", **SMALL).eval()
    load_backbone(model, tmp_path / "resnet18.safetensors")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(images), trained.forward_features(images))


@pytest.mark.parametrize("head", ["token", "noah"])
def test_positions_of_a_vision_transformer_are_resized_and_lose_the_token_where_there_is_none(tmp_path, head):
    trained = timm.create_model("deit_tiny_patch16_224", img_size=64)
    save_file(trained.state_dict(), tmp_path / "deit.safetensors")
    model = build_model("deit_tiny", head, num_classes=3, img_size=96)
    load_backbone(model, tmp_path / "deit.safetensors")
    assert model.backbone.pos_embed.shape == (1, 36 + (head == "token"), 192)
    same = build_model("deit_tiny", head, num_classes=3, img_size=64)
    load_backbone(same, tmp_path / "deit.safetensors")
    torch.testing.assert_close(same.backbone.pos_embed, trained.pos_embed[:, int(head != "token") :])


def test_weights_of_another_backbone_are_refused_by_the_first_tensor(tmp_path):
    narrow = build_model("mobilenetv2", "gap", width=0.35, **SMALL)
    save_file(narrow.state_dict(), tmp_path / "narrow.safetensors")
    with pytest.raises(ValueError, match=r"narrow.safetensors: 'conv_stem.weight' has shape \(16, .* expected \(32,"):
        load_backbone(build_model("mobilenetv2", "gap", **SMALL), tmp_path / "narrow.safetensors")
    with pytest.raises(ValueError, match=r"tensors of the backbone are not there, first 'conv1.weight'"):
        load_backbone(build_model("resnet18", "gap", **SMALL), tmp_path / "narrow.safetensors")


def test_another_file_than_the_study_names_is_refused(tmp_path):
    model = build_model("mobilenetv2", "gap", width=0.35, **SMALL)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors: sha256 is [0-9a-f]{64}, expected 0{64}"):
        load_backbone(model, tmp_path / "model.safetensors", "0" * 64)


def test_what_is_no_safetensors_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    model = build_model("mobilenetv2", "gap", width=0.35, **SMALL)
    for name, said in (("model.safetensors", "not a safetensors file"), ("absent.safetensors", "no such file")):
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            load_backbone(model, tmp_path / name)


def test_weights_of_a_deeper_network_are_refused_though_all_that_is_asked_for_is_there(tmp_path):
    save_file(timm.create_model("resnet34").state_dict(), tmp_path / "resnet34.safetensors")
    model = build_model("resnet18", "gap", **SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    message = r"resnet34.safetensors: \d+ tensors have no place in the backbone, first 'layer1.2.bn1.bias'"
    with pytest.raises(ValueError, match=message):
        load_backbone(model, tmp_path / "resnet34.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), "left as it was"


@pytest.mark.parametrize(
    "name",
    ["mobilenetv2_100", "convnext_atto", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "mixer_s16_224",
     "swin_tiny_patch4_window7_224", "resnet18", "efficientnet_b0", "densenet121", "hiera_tiny_224", "pvt_v2_b0",
     "levit_128s", "repvit_m0_9", "efficientvit_m0", "swiftformer_xs"],
)  # fmt: skip
def test_timms_own_file_of_a_model_fits_with_its_classifier(tmp_path, name):
    trained = timm.create_model(name)
    save_file(trained.state_dict(), tmp_path / "timm.safetensors")
    model = build_model(name, "gap", num_classes=3)
    load_backbone(model, tmp_path / "timm.safetensors")
    theirs = trained.state_dict()
    for key, tensor in model.backbone.state_dict().items():
        assert tensor.shape != theirs[key].shape or torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize(("name", "prefix"), [("vit_small_patch14_reg4_dinov2", 0), ("vit_tiny_patch16_224", 1)])
def test_positions_are_resized_whatever_tokens_stand_before_them(tmp_path, name, prefix):
    trained = timm.create_model(name, img_size=112, depth=2)
    save_file(trained.state_dict(), tmp_path / "vit.safetensors")
    model = build_model(name, "noah", num_classes=3, img_size=224, depth=2)
    load_backbone(model, tmp_path / "vit.safetensors")
    grid = model.backbone.patch_embed.grid_size
    expected = timm.layers.resample_abs_pos_embed(trained.pos_embed[:, prefix:], list(grid), num_prefix_tokens=0)
    torch.testing.assert_close(model.backbone.pos_embed, expected)


def test_weights_of_a_model_that_pools_by_attention_are_taken_and_the_pooling_is_named_as_left_out(tmp_path):
    name = "vit_base_patch16_siglip_224"
    own = timm.create_model(name, depth=1, num_classes=5)
    save_file(own.state_dict(), tmp_path / "siglip.safetensors")
    model = build_model(name, "gap", depth=1, num_classes=5)
    load_backbone(model, tmp_path / "siglip.safetensors")
    assert torch.equal(model.backbone.norm.weight, own.norm.weight)
    assert {"attn_pool", "attn_pool.q", "attn_pool.kv"} <= set(model.left_out_layers)
