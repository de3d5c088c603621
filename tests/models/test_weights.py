"""Checkpoints made up from the names and shapes of 23 official models; scores are compared with models not ours."""

import argparse
import gzip
import json
import os
import pickle
from functools import partial
from pathlib import Path

import official_by_hand
import pytest
import timm
import torch
import torchvision
from official_by_hand import is_head
from safetensors import safe_open
from safetensors.torch import load_file
from timm.layers import GatedMlp
from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock

import noah
from noah.backbones import BACKBONES
from noah.evaluate.export import import_weights
from noah.models import build_model
from noah.models.weights import load_official_weights

with gzip.open(Path(__file__).with_name("official_shapes.json.gz"), "rt") as file:
    SHAPES: dict[str, dict[str, list[int]]] = json.load(file)
"""Official model -> key -> shape."""

GMLP = {"num_blocks": 30, "mlp_ratio": 6, "block_layer": SpatialGatingBlock, "mlp_layer": GatedMlp}


def by(build, state: dict, images: torch.Tensor) -> torch.Tensor:
    """The features of a model of torchvision (its last map) or timm (its tokens) that uses the official names."""
    other = build().eval()
    missing, unexpected = other.load_state_dict({k: t for k, t in state.items() if not is_head(k)}, strict=False)
    assert not unexpected
    assert {key.split(".")[0] for key in missing} <= {"fc", "classifier"}
    if hasattr(other, "forward_features"):
        return other.forward_features(images)
    if hasattr(other, "features"):
        return other.features(images)
    return torch.nn.Sequential(*[m for name, m in other.named_children() if name not in ("avgpool", "fc")])(images)


def by_vit(name: str, state: dict, images: torch.Tensor) -> torch.Tensor:
    token = {"class_token": "cls_token" in state, "global_pool": "token" if "cls_token" in state else ""}
    return by(partial(timm.create_model, name, num_classes=0, **token), state, images)


# Arguments of our model, side of the images, features from the official names.
MODELS = {
    "resnet18": ({"backbone": "resnet18"}, 64, partial(by, torchvision.models.resnet18)),
    "resnet50": ({"backbone": "resnet50"}, 64, partial(by, torchvision.models.resnet50)),
    "mobilenetv2_050": (
        {"backbone": "mobilenetv2", "width": 0.5},
        64,
        partial(by, partial(torchvision.models.mobilenet_v2, width_mult=0.5)),
    ),
    "mobilenetv2_100": ({"backbone": "mobilenetv2"}, 64, partial(by, torchvision.models.mobilenet_v2)),
    "mobilenetv3_small": ({"backbone": "mobilenetv3_small"}, 64, official_by_hand.mobilenetv3_small),
    "shufflenetv2_100": ({"backbone": "shufflenetv2"}, 64, partial(by, torchvision.models.shufflenet_v2_x1_0)),
    "deit_tiny": ({"backbone": "deit_tiny"}, 224, partial(by_vit, "deit_tiny_patch16_224")),
    "deit_small": ({"backbone": "deit_small"}, 224, partial(by_vit, "deit_small_patch16_224")),
    "pvt_tiny_050": ({"backbone": "pvt_tiny", "width": 0.5}, 224, official_by_hand.pvt_tiny),
    "mixer_s16_050_224": (
        {"backbone": "mixer_small", "width": 0.5},
        224,
        partial(by, partial(MlpMixer, num_classes=0, num_blocks=8, embed_dim=256)),
    ),
    "gmlp_ti16_224": (
        {"backbone": "gmlp_tiny"},
        224,
        partial(by, partial(MlpMixer, num_classes=0, embed_dim=128, **GMLP)),
    ),
    "gmlp_ti16_050_224": (
        {"backbone": "gmlp_tiny", "width": 0.5},
        224,
        partial(by, partial(MlpMixer, num_classes=0, embed_dim=64, **GMLP)),
    ),
}


def checkpoint(name: str) -> dict[str, torch.Tensor]:
    """Random tensors under the official names, of a size at which activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)

    def tensor(key, shape):
        if key.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
            return torch.rand(shape, generator=generator) + 0.5
        fan_in = max(1, torch.Size(shape[1:]).numel()) if len(shape) > 1 else 25
        return torch.randn(shape, generator=generator) / fan_in**0.5

    return {key: tensor(key, shape) for key, shape in SHAPES[name].items()}


def test_every_official_model_is_tried_here():
    assert len(SHAPES) == 23
    assert {name.removeprefix("noah_") for name in SHAPES} == set(MODELS)


@pytest.mark.parametrize("name", SHAPES)
def test_after_loading_the_scores_are_those_of_the_official_model(name):
    arguments, side, official_features = MODELS[name.removeprefix("noah_")]
    state = checkpoint(name)
    model = build_model(head="noah" if name.startswith("noah_") else "baseline", **arguments).eval()
    load_official_weights(model, state)
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        given = model(images)
        expected = official_by_hand.scores(state, official_features(state, images))
    assert given.std() > 1e-2
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in SHAPES if not name.startswith("noah_")])
def test_a_baseline_that_timm_itself_gives_takes_the_same_checkpoint(name):
    arguments, side, _ = MODELS[name]
    ours = build_model(head="baseline", **arguments).eval()
    theirs = timm.create_model(BACKBONES[arguments["backbone"]].timm[arguments.get("width", 1.0)]).eval()
    for model in (ours, theirs):
        load_official_weights(model, checkpoint(name))
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), ours(images), rtol=1e-4, atol=1e-5)


SMALL = "noah_gmlp_ti16_050_224"


def small(head: str = "noah", width: float = 0.5, **kwargs) -> torch.nn.Module:
    return build_model("gmlp_tiny", head, width=width, **kwargs)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"state_dict": state, "epoch": 300, "arch": "noah", "best_acc1": torch.tensor(70.0)},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, data="/data"), "optimizer": {"state": {}}},
        lambda state: {"model": state, "model_ema": {key: tensor + 1 for key, tensor in state.items()}},
        lambda state: {"state_dict_ema": {key: tensor + 1 for key, tensor in state.items()}, "state_dict": state},
        lambda state: {"state_dict": {f"module.{key}": tensor.half() for key, tensor in state.items()}},
    ],
    ids=[
        "bare",
        "module",
        "state_dict",
        "model",
        "model-beside-ema",
        "state_dict-beside-ema",
        "module-in-state_dict-half",
    ],
)
def test_checkpoints_are_taken_as_they_were_saved(wrap, tmp_path):
    state = checkpoint(SMALL)
    torch.save(wrap(state), tmp_path / "model.pth")
    model = small()
    load_official_weights(model, tmp_path / "model.pth")
    for key in ("blocks.29.mlp_channels.gate.proj.weight", "norm.bias"):
        torch.testing.assert_close(model.state_dict()[f"backbone.{key}"], state[key], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(model.head.value.weight.data, state["head.value.weight"], atol=1e-3, rtol=1e-3)
    assert model.head.value.weight.dtype == torch.float32


class Malicious:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({**checkpoint(SMALL), "extra": Malicious(tmp_path / "ran")}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: refused: holds posix\.mkdir, expected tensors"):
        load_official_weights(small(), tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2) + b"\x80\x02}q"
"""The start of what torch wrote before it wrote zip files: magic number, version, half a dict."""


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip", OLD_FORMAT], ids=["empty", "text", "zip", "old"]
)
def test_what_is_no_checkpoint_is_named(content, tmp_path):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pth: not a checkpoint of torch$"):
        load_official_weights(small(), tmp_path / "model.pth")


def test_a_missing_file_and_content_without_tensors_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.pth: no such file"):
        load_official_weights(small(), tmp_path / "nothing.pth")
    for content, said in (([1], "holds list"), ({}, "holds dict"), ({"epoch": 3}, "'epoch' is int, expected a tensor")):
        torch.save(content, tmp_path / "model.pth")
        with pytest.raises(ValueError, match=said):
            load_official_weights(small(), tmp_path / "model.pth")


def fails(model: torch.nn.Module, name: str, *parts: str, **changes) -> None:
    """Refused in one line that says all of the parts; the model is left as it was."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the model") as error:
        load_official_weights(model, {**checkpoint(name), **changes})
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert all(tensor.equal(before[key]) for key, tensor in model.state_dict().items())


def test_another_n_r_or_m_is_told_from_the_shapes():
    theirs = "the head is NOAH with N = 4, r = 0.5, M = 1000, expected NOAH with "
    shape = "head.query.weight has shape (4000, 8, 1, 1), expected "
    fails(small(num_heads=8), SMALL, theirs + "N = 8, r = 0.5, M = 1000", shape + "(8000, 4, 1, 1)")
    fails(small(key_ratio=0.25), SMALL, theirs + "N = 4, r = 0.25, M = 1000", shape + "(4000, 4, 1, 1)")
    fails(
        small(num_classes=10),
        SMALL,
        theirs + "N = 4, r = 0.5, M = 10;",
        shape + "(40, 8, 1, 1)",
        "head.query.bias has",
        "; and 2 more",
    )


def test_another_width_is_told_from_the_first_tensors():
    model = build_model("mobilenetv2", width=1.0)
    shape = "features.0.0.weight has shape (16, 3, 3, 3), expected (32, 3, 3, 3)"
    fails(model, "noah_mobilenetv2_050", "the backbone has another width", shape, "more")


def test_another_number_of_channels_is_not_taken_for_another_head():
    with pytest.raises(ValueError, match="the backbone has another width") as error:
        load_official_weights(small(width=1.0), checkpoint(SMALL))
    assert "the head is" not in str(error.value)


def test_two_names_for_one_tensor_are_refused():
    state = checkpoint(SMALL)
    with pytest.raises(ValueError, match=r"norm\.bias and module\.norm\.bias are the same tensor"):
        load_official_weights(small(), {**state, "module.norm.bias": state["norm.bias"]})


def test_another_head_is_told():
    extra = "head.weight has no place in the model"
    fails(small(), "gmlp_ti16_050_224", "the head is linear with M = 1000, expected NOAH", extra, "head.query.weight")
    fails(small("gap", num_classes=10), SMALL, "the head is NOAH", "expected linear with M = 10", "head.fc.weight")
    deit = build_model("deit_tiny", depth=12)
    fails(deit, "deit_tiny", "class token", "pos_embed has shape (1, 197, 192), expected (1, 196, 192)", "linear")


def test_a_tensor_too_many_or_too_few_is_refused():
    fails(
        small(), SMALL, "state dict: ", "pre_logits.fc.weight has no place", **{"pre_logits.fc.weight": torch.ones(1)}
    )
    shallow = small(depth=31)
    fails(shallow, SMALL, "backbone.blocks.30.norm.weight of the model is not in the checkpoint")


def test_backbones_that_are_not_of_the_paper_are_refused():
    state = checkpoint(SMALL)
    with pytest.raises(ValueError, match="backbone is RegNet, expected one of EfficientNet, MlpMixer"):
        load_official_weights(build_model("regnetx_002", num_heads=4, key_ratio=0.5), state)
    with pytest.raises(ValueError, match="backbone is Linear, expected one of EfficientNet, MlpMixer"):
        load_official_weights(torch.nn.Linear(2, 2), state)
    with pytest.raises(
        ValueError, match=r"does not fit the model: .*the head is NOAH.*, expected linear with M = 1000"
    ):
        load_official_weights(timm.create_model("gmlp_ti16_050_224"), state)


def test_noah_offers_it_without_loading_torch_first():
    assert noah.load_official_weights is load_official_weights


def test_an_imported_checkpoint_is_safetensors_of_our_model(tmp_path):
    state = checkpoint(SMALL)
    torch.save({"state_dict": state}, tmp_path / "official.pth")
    out = tmp_path / "model.safetensors"
    import_weights(tmp_path / "official.pth", out, backbone="gmlp_tiny", width=0.5, head="noah", num_classes=1000)
    with safe_open(out, framework="pt") as written:
        description = json.loads(written.metadata()["noah"])
    assert description["mean"] == description["std"] == [0.5, 0.5, 0.5]
    model = build_model(**description["model"])
    model.load_state_dict(load_file(out))
    assert model.head.query.weight.equal(state["head.query.weight"])
    with pytest.raises(ValueError, match=r"official\.pth: does not fit the model"):
        import_weights(tmp_path / "official.pth", out, backbone="gmlp_tiny", width=1.0)
