"""The families that timm lacks, against torchvision or a formula."""

import pytest
import timm
import torch
import torchvision
from torch.nn import functional as F

from noah.models import build_model


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_shufflenetv2_computes_what_torchvisions_computes(images):
    theirs = torchvision.models.shufflenet_v2_x1_0(num_classes=5).eval()
    ours = timm.create_model("shufflenetv2_100", num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(images), theirs(images))


def test_mobilenetv3_has_its_hidden_layer_behind_the_mean_in_the_baseline_and_at_every_position_before_noah(images):
    baseline = build_model("mobilenetv3_small", "baseline", num_classes=5, img_size=64).eval()
    noah = build_model("mobilenetv3_small", "noah", num_classes=5, img_size=64).eval()
    noah.backbone.load_state_dict(baseline.backbone.state_dict())
    features = baseline.forward_features(images)
    assert features.shape == (2, 576, 2, 2)
    conv = baseline.backbone.conv_head
    pooled = F.hardswish(F.linear(features.mean((2, 3)), conv.weight[:, :, 0, 0], conv.bias))
    torch.testing.assert_close(baseline.forward_head(features, pre_logits=True), pooled)
    torch.testing.assert_close(baseline(images), baseline.get_classifier().fc(pooled))
    torch.testing.assert_close(noah.forward_features(images), F.hardswish(conv(features)))


def test_mobilenetv3_is_not_timms_and_every_block_of_it_expands():
    model = timm.create_model("mobilenetv3_small", num_classes=5)
    blocks = list(model.features)[1:-1]
    assert [block.conv[0].out_channels for block in blocks] == [16, 72, 88, 96, 240, 240, 120, 144, 288, 576, 576]
    gates = [block.conv[5].fc[0].out_features for block in blocks if hasattr(block.conv[5], "fc")]
    assert gates == [4, 24, 60, 60, 30, 36, 72, 144, 144]


def test_pvt_halves_its_map_four_times_and_attends_to_a_reduced_one(images):
    model = timm.create_model("pvt_tiny_050", img_size=64, num_classes=5).eval()
    sides, keys = [], []
    for stage in (model.stage1, model.stage2, model.stage3, model.stage4):
        stage.register_forward_hook(lambda _, args, output: sides.append(tuple(output[1])))
        stage.blocks[0].attn.kv.register_forward_hook(lambda _, args, output: keys.append(output.shape[1]))
    model(images)
    assert sides == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert keys == [4, 4, 4, 1 + 4]


def test_pvts_class_token_stands_in_the_last_stage_and_is_what_the_classifier_sees(images):
    model = timm.create_model("pvt_tiny_050", img_size=64, num_classes=5).eval()
    assert [tuple(p.shape) for name, p in model.named_parameters() if "cls_token" in name] == [(1, 1, 256)]
    features = model.forward_features(images)
    assert features.shape == (2, 1 + 4, 256)
    torch.testing.assert_close(model(images), model.head(features[:, 0]))


def test_pvt_tells_positions_apart_by_their_embeddings_alone():
    """An image of one colour: what differs between positions comes from their embeddings."""
    model = build_model("pvt_tiny", "gap", width=0.5, img_size=64, num_classes=5).eval()
    images = torch.full((1, 3, 64, 64), 0.5)
    assert model.forward_features(images).std(dim=1).min() > 1e-3
    for stage in (model.backbone.stage1, model.backbone.stage2, model.backbone.stage3, model.backbone.stage4):
        torch.nn.init.zeros_(stage.pos_embed)
    assert model.forward_features(images).std(dim=1).max() < 1e-3


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_pvt_pools_as_it_is_told(pool, images):
    model = timm.create_model("pvt_tiny_050", img_size=64, num_classes=0, global_pool=pool).eval()
    features = model.forward_features(images)
    torch.testing.assert_close(model(images), features[:, 0] if pool == "token" else features[:, 1:].mean(1))


def test_pvts_blocks_are_computed_again_in_the_backward_pass_where_that_is_asked_for(images):
    model = timm.create_model("pvt_tiny_050", num_classes=3, img_size=images.shape[-1]).train()
    calls = []
    for stage in (model.stage1, model.stage2, model.stage3, model.stage4):
        for block in stage.blocks:
            block.register_forward_pre_hook(lambda *_: calls.append(1))
    gradients = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        calls.clear()
        model(images).square().sum().backward()
        gradients.append((len(calls), [parameter.grad.clone() for parameter in model.parameters()]))
    (once, plain), (twice, again) = gradients
    assert twice == 2 * once
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
