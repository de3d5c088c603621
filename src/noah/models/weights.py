"""Released checkpoints of the official code (OSVAI/NOAH, commit 2449201) into our models, strictly.

The official models name their layers as torchvision, DeiT, PVT or timm do; ours as timm does, behind `backbone.` and
`head.`. `RENAMED` holds what differs, family by family. Files are read as data only: see `read_checkpoint`.
"""

import argparse
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.models import EfficientNet, MlpMixer, ResNet, VisionTransformer
from torch import Tensor, nn

from noah.models.classifier import Classifier
from noah.models.mobilenetv3 import MobileNetV3Small
from noah.models.pvt import PyramidVisionTransformer
from noah.models.shufflenetv2 import ShuffleNetV2

UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, struct.error, LookupError),
    *(ValueError, TypeError, AttributeError, AssertionError),
)
"""All that torch's two readers, of zip files and of the older format, raise on broken bytes."""

SHOWN = 2
"""Tensors that an error names: as many of another shape, as many too many and as many too few."""


def _mobilenetv2() -> list[tuple[str, str]]:
    """`features.N` counts through the seven stages; only the first block has no expanding convolution."""
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"}
    first = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    other = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
    places = [(stage, block) for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)) for block in range(blocks)]
    for number, (stage, block) in enumerate(places, start=1):
        for theirs, ours in (first if number == 1 else other).items():
            names[f"features.{number}.conv.{theirs}"] = f"blocks.{stage}.{block}.{ours}"
    return [(re.escape(f"{theirs}."), f"{ours}.") for theirs, ours in names.items()]


RENAMED: dict[type, list[tuple[str, str]]] = {
    ResNet: [],
    EfficientNet: _mobilenetv2(),
    # The layer behind the pooling is number 14; NOAH has it in front, where there is none, as number 13.
    MobileNetV3Small: [(r"features\.1[34]\.(?=weight$|bias$)", "conv_head.")],
    ShuffleNetV2: [],
    VisionTransformer: [],
    PyramidVisionTransformer: [
        (r"(patch_embed|pos_embed)(\d)", r"stage\2.\1"),
        (r"block(\d)", r"stage\1.blocks"),
        (r"cls_token", "stage4.cls_token"),
    ],
    MlpMixer: [],
}
"""Class of the backbone to (start of an official name as a pattern, ours); any other name is the same in both."""

HEAD = [
    (r"(?:head|classifier)\.(query|value)\.", r"head.\1."),
    (r"(?:head|head\.2|classifier\.1)\.(?=weight$|bias$)", "head.fc."),
]
"""The same for the heads of all families: CNNs have pooling and dropout in front of their linear layer."""


def load_official_weights(model: nn.Module, path_or_state_dict: str | Path | Mapping) -> None:
    """Fill a model with a released checkpoint: every tensor of the checkpoint is used, every tensor of ours filled.

    Args:
        model: From `noah.build_model` or `timm.create_model("noah_…")`, or for a baseline what `timm.create_model`
            itself gives (`resnet18`, `pvt_tiny`); as published: same width, N, r, M and image size. On an error it is
            left as it was.
        path_or_state_dict: A .pth file, or its content: a state dict, or a dict that holds one as `state_dict` or
            `model`; `module.` in front of the names is dropped.

    Raises:
        ValueError: The file is no checkpoint or holds anything but data, the backbone is none of the paper's, or names
            or shapes do not fit; the message names the first that do not, and how they differ.
    """
    if isinstance(path_or_state_dict, Mapping):
        source, content = "state dict", path_or_state_dict
    else:
        source, content = str(path_or_state_dict), read_checkpoint(Path(path_or_state_dict))
    backbone = type(model.backbone if isinstance(model, Classifier) else model)
    if backbone not in RENAMED:
        known = ", ".join(sorted(kind.__name__ for kind in RENAMED))
        raise ValueError(f"{source}: the model's backbone is {backbone.__name__}, expected one of {known}")
    official = _state_dict(content, source)
    names = {key: _our_name(key.removeprefix("module."), RENAMED[backbone]) for key in official}
    places = {_as_classifier(model, name): name for name in model.state_dict()}
    _check_fit(model, places, official, names, source)
    model.load_state_dict({places[names[key]]: tensor for key, tensor in official.items()})


def read_checkpoint(path: Path) -> object:
    """The content of a .pth file, on the CPU. Nothing in it is run: tensors, plain values and argparse.Namespace only.

    Raises:
        ValueError: No such file, no checkpoint, or one that holds something else.
    """
    try:
        # The official training scripts put their parsed arguments beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UNREADABLE as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path}: refused: holds {refused[1]}, expected tensors, plain values and argparse.Namespace only"
            ) from None
        raise ValueError(f"{path}: not a checkpoint of torch") from None


def _state_dict(content: object, source: str) -> dict[str, Tensor]:
    """Official names to tensors, out of whatever holds them."""
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"{source}: holds {type(content).__name__}, expected a state dict, bare or as state_dict or model"
        )
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{source}: '{key}' is {type(value).__name__}, expected a tensor")
    return dict(content)


def _our_name(key: str, renamed: list[tuple[str, str]]) -> str:
    for pattern, ours in HEAD:
        if re.match(pattern, key):
            return re.sub(rf"^{pattern}", ours, key)
    for pattern, ours in renamed:
        if re.match(pattern, key):
            return "backbone." + re.sub(rf"^{pattern}", ours, key)
    return f"backbone.{key}"


def _as_classifier(model: nn.Module, name: str) -> str:
    """The name that a tensor of the model has, or would have, in a `Classifier`."""
    if isinstance(model, Classifier):
        return name
    classifier = f"{model.default_cfg['classifier']}."
    return f"head.fc.{name.removeprefix(classifier)}" if name.startswith(classifier) else f"backbone.{name}"


def _check_fit(
    model: nn.Module, places: dict[str, str], official: dict[str, Tensor], names: dict[str, str], source: str
) -> None:
    """ValueError that names the first tensors that do not fit, and what that says of the checkpoint.

    Args:
        places: Name in a `Classifier` to the model's own name.
        names: Name in the checkpoint to that in a `Classifier`.
    """
    tensors = model.state_dict()
    expected = {name: tuple(tensors[own].shape) for name, own in places.items()}
    found = {names[key]: tuple(tensor.shape) for key, tensor in official.items()}
    if len(found) < len(official):
        doubled = [key for key, name in names.items() if list(names.values()).count(name) > 1]
        raise ValueError(
            f"{source}: {' and '.join(doubled[:2])} are the same tensor of the model, expected one of them"
        )
    reshaped = {key: name for key, name in names.items() if name in expected and found[name] != expected[name]}
    shapes = [f"{key} has shape {found[name]}, expected {expected[name]}" for key, name in reshaped.items()]
    extra = [f"{key} has no place in the model" for key, name in names.items() if name not in expected]
    missing = [f"{name} of the model is not in the checkpoint" for name in expected if name not in found]
    reasons = []
    another_backbone = any(name.startswith("backbone.") for name in reshaped.values())
    if another_backbone:
        reasons.append("the backbone has another width, depth, image size or class token")
    channels = None if another_backbone else model.head_hidden_size
    theirs, ours = _describe_head(found, channels), _describe_head(expected, channels)
    if theirs != ours:
        reasons.append(f"the head is {theirs}, expected {ours}")
    if shapes or extra or missing:
        shown = [*shapes[:SHOWN], *extra[:SHOWN], *missing[:SHOWN]]
        more = len(shapes) + len(extra) + len(missing) - len(shown)
        said = [*reasons, *shown, *([f"and {more} more"] if more else [])]
        raise ValueError(f"{source}: does not fit the model: {'; '.join(said)}")


def _describe_head(shapes: dict[str, tuple[int, ...]], channels: int | None) -> str:
    """What a state dict's shapes say of its head; NOAH's are (N*M, r*C/N, 1, 1) and (N*M, (1-r)*C/N, 1, 1).

    Args:
        shapes: Our names to shapes.
        channels: C, or None where it is unknown.
    """
    if "head.fc.weight" in shapes:
        return f"linear with M = {shapes['head.fc.weight'][0]}"
    if not {"head.query.weight", "head.value.weight"} <= shapes.keys():
        return "of another kind"
    if channels is None:
        return "NOAH"
    (outputs, keys, *_), values = shapes["head.query.weight"], shapes["head.value.weight"][1]
    num_heads = channels / (keys + values)
    return f"NOAH with N = {num_heads:g}, r = {keys / (keys + values):g}, M = {outputs / num_heads:g}"
