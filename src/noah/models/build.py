"""From the names of a study to a model."""

import inspect
from dataclasses import replace
from functools import lru_cache

import timm
import torch
from torch import nn

from noah.backbones import BACKBONES, Backbone, paper_head
from noah.heads import HEADS
from noah.models import deit, mobilenetv3, pvt, shufflenetv2  # noqa: F401  (they register their names in timm)
from noah.models.checks import (
    check_arguments,
    check_backbone_kwargs,
    check_classifies,
    check_combination,
    has_class_token,
    warn_of_few_positions,
)
from noah.models.classifier import POOLS_FIRST, Classifier
from noah.models.features import by_itself, left_out, probe
from noah.models.mlps import MLPS, create_mlp


def build_model(
    backbone: str,
    head: str = "noah",
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    img_size: int | None = None,
    in_chans: int = 3,
    depth: int | None = None,
    patch_size: int | None = None,
    stem_stride: int | None = None,
    output_stride: int | None = None,
    dilation: int | None = None,
    proj_drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    global_pool: str | None = None,
    backbone_kwargs: dict | None = None,
    architecture: str | None = None,
    **head_kwargs,
) -> Classifier:
    """A freshly initialised backbone with a head.

    Vision transformers get a class token where the head takes one, and else have none at all; their last norm stands
    before the head in both cases. Layers that timm has between pooling and classifier (MobileNetV3, ConvNeXt, …) stay
    there for heads that begin with the mean; for the others they are applied to every position, in front of the head,
    as in the paper's MobileNetV3, and `describe` names them. docs/models.md lists the families of timm.

    Args:
        backbone: A name of `noah.backbones.BACKBONES`, or any model of timm.
        head: A name of `noah.heads.HEADS`, or `baseline`: the head of the paper's baseline for this backbone.
        width: A published width; 1.0 for a model of timm.
        num_classes: M; 0 gives pooled features instead of scores.
        img_size: Side of the images, in pixels; default: the backbone's own.
        in_chans: Channels of the images.
        depth: Blocks (vision transformers and MLPs).
        patch_size: Pixels (vision transformers and MLPs).
        stem_stride: Stride of the first convolution (MobileNetV2).
        output_stride: Pixels per position of the last map; later strides become dilations (MobileNetV2, ResNets).
        dilation: 1 undoes those dilations, which are slow and reach beyond the border of small maps.
        proj_drop_rate: Dropout inside the blocks (vision transformers and MLPs).
        drop_path_rate: Share of the blocks that is skipped while training.
        global_pool: As `Classifier.reset_classifier` takes it.
        backbone_kwargs: More arguments of timm's class, such as `{"qk_norm": True}`.
        architecture: The name that timm has for the whole model, if it has one.
        **head_kwargs: Arguments of the head, such as `drop_rate` and `init`. What is left out follows the paper: N, r
            and init of the backbone's NOAH model, or the init of its baseline.

    Raises:
        ValueError: An unknown name or width, an argument that this backbone or head lacks, channels that N and r do not
            divide, an image that the patches do not divide, a model of timm whose features no head can take.

    Warns:
        UserWarning: A head that weighs positions has fewer than four.
    """
    check_arguments(backbone, img_size, depth, output_stride, proj_drop_rate, drop_path_rate)
    published = BACKBONES.get(backbone)
    timm_name, arguments = _timm_name(backbone, published, width), dict(published.body) if published else {}
    head, defaults = paper_head(head, published)
    head_kwargs = {**defaults, **head_kwargs}
    accepted = _accepted(timm_name)

    def optional(name: str, value, *spellings: str) -> None:
        spelling = next((s for s in spellings if s in accepted), None)
        if value and spelling is None:
            raise ValueError(f"backbone '{backbone}': {name} is {value}, expected none: it cannot be set here")
        if spelling is not None and value is not None:  # 0 too: some of timm's classes drop paths unless told
            arguments[spelling] = value

    optional("depth", depth, "depth", "num_blocks")
    optional("patch_size", patch_size, "patch_size")
    optional("output_stride", _timm_output_stride(output_stride, stem_stride), "output_stride")
    optional("proj_drop_rate", proj_drop_rate, "proj_drop_rate")
    optional("drop_path_rate", drop_path_rate, "drop_path_rate")
    if "class_token" in accepted:
        arguments["class_token"] = getattr(HEADS.get(head), "takes_class_token", False)
    if img_size and "img_size" in accepted:
        arguments["img_size"] = img_size
    check_backbone_kwargs(backbone, backbone_kwargs or {}, arguments)
    arguments |= backbone_kwargs or {}

    drawn = torch.get_rng_state()
    body = _create(backbone, timm_name, in_chans, arguments)
    check_classifies(body, backbone)
    if stem_stride:
        if not hasattr(body, "conv_stem"):
            raise ValueError(
                f"backbone '{backbone}': stem_stride is {stem_stride}, expected none: it cannot be set here"
            )
        body.conv_stem.stride = (stem_stride, stem_stride)
    if dilation:
        _undilate(body, backbone, dilation, output_stride)
    img_size = img_size or body.default_cfg["input_size"][-1]
    check_combination(body, backbone, head, img_size)
    features = replace(probe(body, backbone, in_chans, img_size), left_out=left_out(timm_name))
    if not features.moved and (behind := _norm_behind_the_mean(body, timm_name, arguments)):
        features = replace(features, moved=(behind,), between=head in POOLS_FIRST)
        if head in POOLS_FIRST:
            torch.set_rng_state(drawn)
            body = _create(backbone, timm_name, in_chans, arguments, global_pool="avg")
    if arguments.get("class_token"):
        torch.set_rng_state(drawn)
        _take_what_agrees(body, _create(backbone, timm_name, in_chans, {**arguments, "class_token": False}))
    described = {"img_size": img_size, "in_chans": in_chans, "architecture": architecture}
    model = Classifier(body, features, head, num_classes, **described, global_pool=global_pool, **head_kwargs)
    warn_of_few_positions(features.positions, backbone, head, accepted, hasattr(body, "conv_stem"))
    return model


def describe(model: Classifier) -> dict:
    """What stands in a run's arm.json about its model: the facts in which arms can differ besides the head."""
    return {
        "class_token": has_class_token(model.backbone),
        "positions": model.positions,
        "in_features": model.head_hidden_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "head_parameters": sum(p.numel() for p in model.get_classifier().parameters()),
        "moved_layers": model.moved_layers,
        "left_out_layers": model.left_out_layers,
    }


def _timm_name(backbone: str, published: Backbone | None, width: float) -> str:
    """The name in timm."""
    if published is None and (not timm.is_model(backbone) or backbone.startswith("noah_")):
        raise ValueError(f"backbone is '{backbone}', expected one of {', '.join(BACKBONES)}, or a model of timm")
    widths = published.widths if published else (1.0,)
    if width not in widths:
        raise ValueError(f"backbone '{backbone}': width is {width}, expected one of {', '.join(map(str, widths))}")
    return published.timm[width] if published else backbone


def _norm_behind_the_mean(body: nn.Module, timm_name: str, arguments: dict) -> str | None:
    """The last norm of a vision transformer that by itself has the mean of its positions normalised (BEiT, EVA-02, …).
    Without pooling timm puts the same norm in front, at every position, under another name: that of `body`."""
    if timm_name in MLPS or not isinstance(getattr(body, "fc_norm", None), nn.Identity):
        return None
    try:
        with torch.device("meta"):
            whole = timm.create_model(timm_name, num_classes=0, **arguments)
    except AssertionError:  # it pools by its class token, which it was told not to have
        return None
    pools = getattr(whole, "global_pool", None) == "avg"
    return "fc_norm" if pools and any(True for _ in whole.fc_norm.parameters()) else None


def _create(backbone: str, timm_name: str, in_chans: int, arguments: dict, *, global_pool: str = "") -> nn.Module:
    """timm's model without classifier and, where it can be, without pooling."""
    create = create_mlp if timm_name in MLPS else timm.create_model
    arguments = {"num_classes": 0, "in_chans": in_chans, **arguments}
    try:
        return create(timm_name, global_pool=global_pool, **arguments)
    except TypeError as error:  # some of timm's entry points fix an argument that their class takes
        if "multiple values" not in str(error):
            raise
        raise ValueError(f"backbone '{backbone}': {error}; timm fixes it for this model") from error
    except AssertionError:  # some of timm's models cannot be without pooling; `probe` sees whether that matters
        try:
            return create(timm_name, **arguments)
        except AssertionError as error:
            raise ValueError(f"backbone '{backbone}': {error}") from error


@torch.no_grad()
def _take_what_agrees(body: nn.Module, other: nn.Module) -> None:
    """Give `body` the weights of `other` wherever names and shapes agree: a class token that is drawn first shifts all
    later draws, and arms with and without one would start from different backbones."""
    own = body.state_dict()
    for name, tensor in other.state_dict().items():
        if name in own and own[name].shape == tensor.shape:
            own[name].copy_(tensor)


def _timm_output_stride(output_stride: int | None, stem_stride: int | None) -> int | None:
    """timm counts the stem's stride as 2, whatever it is then set to."""
    if output_stride is None or stem_stride != 1:
        return output_stride
    if output_stride > 16:
        raise ValueError(f"output_stride is {output_stride}, expected at most 16 with stem_stride 1")
    return output_stride * 2


def _undilate(body: nn.Module, backbone: str, dilation: int, output_stride: int | None) -> None:
    dilated = [m for m in body.modules() if isinstance(m, nn.Conv2d) and max(m.dilation) > 1]
    if dilation != 1 or output_stride is None or not dilated:
        raise ValueError(
            f"backbone '{backbone}': dilation is {dilation}, expected none, or 1 with an output_stride that dilates"
        )
    for convolution in dilated:
        if not isinstance(convolution.padding, str) and any(convolution.padding):
            convolution.padding = tuple(size // 2 for size in convolution.kernel_size)
        convolution.dilation = (1, 1)


@lru_cache
def _accepted(timm_name: str) -> frozenset[str]:
    """The arguments of the class behind timm's name, which only a built model tells; built without memory."""
    return frozenset(inspect.signature(type(by_itself(timm_name))).parameters)
