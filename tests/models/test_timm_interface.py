"""What timm's own tests ask of a model, and torch's ways to compile one, over one small model per family."""

import copy

import pytest
import timm
import torch
from models_support import SMALL, small
from timm.layers import create_feature_extractor
from timm.optim import create_optimizer_v2

from noah.models import build_model
from noah.models.registry import default_cfgs


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=SMALL)
def model(request):
    return small(request.param).eval()


BASELINES = ["resnet18", "mobilenetv3_small", "deit_tiny", "pvt_tiny"]


@pytest.fixture(params=[*((name, "noah") for name in SMALL), *((name, "baseline") for name in BASELINES)], ids="-".join)
def any_model(request):
    return small(*request.param).eval()


def test_features_head_and_description_fit_together(any_model, images):
    features = any_model.forward_features(images)
    assert features.shape[1 if features.ndim == 4 else -1] == any_model.num_features
    if any_model.default_cfg["pool_size"]:
        assert tuple(features.shape[2:]) == any_model.default_cfg["pool_size"]
    assert any_model.forward_head(features, pre_logits=True).shape == (2, any_model.head_hidden_size)
    assert torch.equal(any_model.forward_head(features), any_model(images))
    for name in (any_model.default_cfg["first_conv"], *any_model.default_cfg["classifier"]):
        assert f"{name}.weight" in any_model.state_dict()


def test_every_parameter_gets_a_gradient(any_model, images):
    """Also the key bias of NOAH, though softmax makes it zero. Batch norm by its running numbers: maps are 1x1."""
    any_model.eval()(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in any_model.parameters())


def test_other_image_channels_and_classes_are_taken():
    for backbone in ("shufflenetv2", "mobilenetv3_small", "pvt_tiny"):
        model = small(backbone, in_chans=1).eval()
        assert model.default_cfg["input_size"] == (1, 32, 32)
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)
        model.reset_classifier(5)
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("name", ["pvt_tiny_050", "shufflenetv2_100", "mobilenetv3_small"])
def test_our_baselines_reset_their_classifier_as_timms_do(name):
    size = {"img_size": 32} if name.startswith("pvt") else {}
    model = timm.create_model(name, num_classes=5, **size).eval()
    images = torch.randn(2, 3, 32, 32)
    features = model.forward_features(images)
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(model(images), model.get_classifier()(pooled))
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), pooled)
    model.reset_classifier(0, "")
    assert model(images).ndim == features.ndim
    with pytest.raises(ValueError, match="global_pool is 'max'"):
        model.reset_classifier(0, "max")
    model.reset_classifier(7, "avg")
    assert model(images).shape == (2, 7)


@pytest.mark.parametrize("backbone", ["resnet18", "pvt_tiny", "gmlp_tiny"])
def test_torch_compile_changes_nothing(backbone, images):
    model = small(backbone).eval()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), model(images))


@pytest.mark.parametrize("name", ["noah_mobilenetv2_035", "noah_deit_tiny_patch16_224", "noah_gmlp_ti16_050_224"])
def test_a_whole_model_compiles_for_training_with_any_batch(name):
    model = timm.create_model(name, num_classes=3, drop_rate=0.1, img_size=64).train()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (2, 3, 5):
        out = compiled(torch.randn(batch, 3, 64, 64))
        assert out.shape == (batch, 3)
        out.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_torch_export_changes_nothing(model, images):
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_scripted_model_computes_the_same_for_any_batch_and_leaves_the_model_as_it_was(any_model, images):
    any_model.train()
    scripted = torch.jit.script(any_model).eval()
    assert any_model.training
    assert any_model.get_classifier().training
    torch.testing.assert_close(scripted(images[:1]), any_model.eval()(images[:1]))


def test_timms_fx_extracts_features_with_the_head_as_a_leaf(any_model, images):
    graph = create_feature_extractor(any_model, {"head": "scores"})
    torch.testing.assert_close(graph(images)["scores"], any_model(images))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_compiles_timms_fx_graph_with_the_head_in_it(any_model, images):
    graph = create_feature_extractor(any_model.eval(), {"head": "scores"})
    torch.testing.assert_close(torch.jit.script(graph)(images)["scores"], any_model(images))


@pytest.mark.parametrize("name", ["noah_mobilenetv3_small", "noah_pvt_tiny_050", "noah_mixer_s16_050_224"])
def test_timms_create_model_takes_no_classes_and_no_pooling(name):
    assert name in default_cfgs
    with torch.device("meta"):
        pooled = timm.create_model(name, num_classes=0)
        features = timm.create_model(name, num_classes=0, global_pool="")
        images = torch.zeros(1, 3, 224, 224)
        assert pooled(images).shape == (1, pooled.num_features)
        assert features(images).shape == features.forward_features(images).shape


def test_maps_at_several_depths_are_those_that_the_model_says(any_model, images):
    final, maps = any_model.forward_intermediates(images)
    assert torch.equal(final, any_model.forward_features(images))
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in any_model.feature_info]
    modules = dict(any_model.named_modules())
    assert all(info["module"] in modules for info in any_model.feature_info)
    last = any_model.forward_intermediates(images, indices=1, intermediates_only=True)
    assert torch.equal(last[0], maps[-1])


def test_tokens_in_front_of_the_positions_are_counted(images):
    for backbone, head, expected in (("deit_tiny", "token", 1), ("deit_tiny", "noah", 0), ("resnet18", "gap", 0)):
        assert small(backbone, head).num_prefix_tokens == expected
    tokens = small("deit_tiny", "token").get_intermediate_layers(images, 2)
    assert [t.shape for t in tokens] == [(2, 16, 96)] * 2


@pytest.mark.parametrize("head", ["token", "noah"])
def test_a_vision_transformer_takes_another_size_in_place(head):
    model = small("deit_tiny", head).eval()
    model.set_input_size(img_size=64)
    assert (model.positions, model.img_size, model.default_cfg["input_size"]) == (64, 64, (3, 64, 64))
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"img_size is \(32, 64\), expected a square"):
        model.set_input_size(img_size=(32, 64))
    assert not hasattr(small("gmlp_tiny"), "set_input_size")


@pytest.mark.parametrize("backbone", ["cait_xxs24_224", "inception_v3", "inception_resnet_v2", "resnet18", "deit_tiny"])
def test_layers_have_learning_rates_that_fall_towards_the_images(backbone):
    with torch.device("meta"):
        model = build_model(backbone, "gap", num_classes=3)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    by_layer = [scales[id(p)] for p in model.parameters()]
    assert by_layer[0] == min(by_layer)
    assert {scales[id(p)] for p in model.head.parameters()} == {1.0}
    assert len(set(by_layer)) > 3


def test_more_arguments_reach_the_backbone():
    plain = small("deit_tiny")
    normed = build_model("deit_tiny", "gap", num_classes=3, img_size=32, depth=1, backbone_kwargs={"qk_norm": True})
    assert isinstance(plain.backbone.blocks[0].attn.q_norm, torch.nn.Identity)
    assert not isinstance(normed.backbone.blocks[0].attn.q_norm, torch.nn.Identity)
    with pytest.raises(ValueError, match=r"backbone_kwargs has depth \(3\), expected none: build_model sets it"):
        build_model("deit_tiny", "gap", depth=1, backbone_kwargs={"depth": 3})


def test_a_model_pruned_to_any_map_gives_that_map_says_its_channels_and_has_nothing_left_over(any_model, images):
    maps = any_model.forward_intermediates(images, intermediates_only=True)
    for number, expected in enumerate(maps):
        pruned = copy.deepcopy(any_model)
        assert pruned.prune_intermediate_layers([number], prune_norm=True) == [number]
        torch.testing.assert_close(pruned.forward_intermediates(images, [number], intermediates_only=True)[0], expected)
        features = pruned.forward_features(images)
        assert features.shape[1 if features.ndim == 4 else -1] == pruned.num_features == pruned.head_hidden_size
        assert pruned(images).shape == (2, pruned.num_features)
        features.sum().backward()
        assert all(parameter.grad is not None for parameter in pruned.parameters())
