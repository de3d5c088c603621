import copy

import pytest
import torch
from models_support import SMALL, small
from safetensors.torch import load_file, save_file
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay


@pytest.fixture(params=SMALL)
def model(request):
    return small(request.param).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_pooled_features_are_the_mean_over_positions(model, images):
    features = model.forward_features(images)
    mean = features.mean((2, 3)) if features.ndim == 4 else features.mean(1)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), mean)
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), mean)
    assert mean.shape == (2, model.num_features) == (2, model.head_hidden_size)


def test_pooled_features_of_the_token_head_are_its_class_token(images):
    model = small("deit_tiny", "token").eval()
    features = model.forward_features(images)
    assert features.shape == (2, 17, 96)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features[:, 0])


def test_a_reset_head_keeps_its_arguments(images):
    model = small("mobilenetv2", num_heads=4, key_ratio=0.5, drop_rate=0.2, init="small_m")
    for num_classes in (0, 7):
        model.reset_classifier(num_classes)
    head = model.get_classifier()
    assert (head.num_heads, head.key_ratio, head.drop_rate, head.init) == (4, 0.5, 0.2, "small_m")
    assert model.num_classes == model.default_cfg["num_classes"] == 7
    assert model(images).shape == (2, 7)
    with pytest.raises(ValueError, match="global_pool is 'max'"):
        model.reset_classifier(7, "max")
    with pytest.raises(ValueError, match="global_pool is 'max', expected '' or 'avg'"):
        model.reset_classifier(0, "max")


def test_without_classes_and_pooling_the_features_come_out(model, images):
    model.reset_classifier(0, "")
    assert torch.equal(model(images), model.forward_features(images))
    model.reset_classifier(0)
    assert model(images).shape == (2, model.head_hidden_size)


def test_state_names_are_timms_and_the_official_heads_behind_their_prefix(model):
    head = {name for name in model.state_dict() if name.startswith("head.")}
    assert head == {"head.query.weight", "head.query.bias", "head.value.weight", "head.value.bias"}
    rest = {name.removeprefix("backbone.") for name in model.state_dict()} - head
    assert rest == set(model.backbone.state_dict())


def test_weights_survive_safetensors(model, images, tmp_path):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(images), model(images))


def test_a_deep_copy_shares_nothing(model, images):
    before = model(images)
    other = copy.deepcopy(model)
    assert torch.equal(other(images), before)
    torch.nn.init.normal_(other.get_classifier().value.weight)
    assert not torch.equal(other(images), before)
    assert torch.equal(model(images), before)


def test_the_description_names_layers_that_exist(model):
    cfg, modules = model.default_cfg, dict(model.named_modules())
    assert cfg is model.pretrained_cfg
    assert cfg["input_size"] == (3, 32, 32)
    assert modules[cfg["first_conv"]].weight.shape[1] == 3
    assert [modules[name] for name in cfg["classifier"]] == [model.head.query, model.head.value]


def test_other_image_channels_are_taken():
    model = small("mobilenetv2", in_chans=1)
    assert model.default_cfg["input_size"] == (1, 32, 32)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)


def test_timm_decays_neither_position_embedding_nor_one_dimensional_parameters():
    model = small("deit_tiny", "token")
    assert {"backbone.pos_embed", "backbone.cls_token"} <= model.no_weight_decay()
    plain, decayed = param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())
    assert plain["weight_decay"] == 0
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]}.isdisjoint({"backbone.pos_embed", "backbone.cls_token"})
    assert "head.fc.weight" in {names[id(p)] for p in decayed["params"]}


def test_pvt_decays_its_position_embeddings_and_not_its_class_token_as_the_official_code():
    assert small("pvt_tiny", "token").no_weight_decay() == {"backbone.stage4.cls_token"}
    assert small("pvt_tiny").no_weight_decay() == set()


@pytest.mark.parametrize("coarse", [False, True])
def test_timm_groups_layers_as_it_does_in_the_bare_backbone_with_the_head_last(model, coarse):
    ours = group_parameters(model, model.group_matcher(coarse), reverse=True)
    bare = group_parameters(model.backbone, model.backbone.group_matcher(coarse), reverse=True)
    assert {name: ours[f"backbone.{name}"] for name in bare} == bare
    assert {layer for name, layer in ours.items() if name.startswith("head.")} == {max(bare.values()) + 1}
    assert param_groups_layer_decay(model, layer_decay=0.5)[0]["lr_scale"] < 1


@pytest.mark.parametrize("backbone", ["deit_tiny", "pvt_tiny", "shufflenetv2", "mobilenetv3_small"])
def test_gradient_checkpointing_changes_nothing_but_memory(backbone, images):
    plain = small(backbone).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.eval()
        model(images).sum().backward()
    assert any(getattr(module, "grad_checkpointing", False) for module in saving.modules())
    for expected, given in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(given.grad, expected.grad)


def test_head_dropout_is_the_arms_and_block_dropout_the_backbones():
    model = small("deit_tiny", drop_rate=0.2, proj_drop_rate=0.1, drop_path_rate=0.3)
    assert model.get_classifier().drop_rate == 0.2
    assert model.backbone.blocks[0].mlp.drop1.p == 0.1
    assert model.backbone.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    pvt = small("pvt_tiny", proj_drop_rate=0.1, drop_path_rate=0.3).backbone
    assert (pvt.stage1.pos_drop.p, pvt.stage4.blocks[-1].mlp.drop1.p) == (0.1, 0.1)
    assert pvt.stage4.blocks[-1].drop_path.drop_prob == pytest.approx(0.3)
