"""From the names of a study to a model."""

import inspect
from functools import lru_cache

import timm
import torch
from timm.models import MlpMixer, VisionTransformer
from torch import nn

from noah.backbones import BACKBONES, BASELINE_HEAD, BASELINE_INIT, NOAH_INIT, Backbone
from noah.heads import HEADS
from noah.models.classifier import Classifier
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
    proj_drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    **head_kwargs,
) -> Classifier:
    """A freshly initialised backbone with a head.

    Vision transformers get a class token where the head takes one, and else have none at all; their last norm stands
    before the head in both cases.

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
        proj_drop_rate: Dropout inside the blocks (vision transformers and MLPs).
        drop_path_rate: Share of the blocks that is skipped while training.
        **head_kwargs: Arguments of the head, such as `drop_rate` and `init`. What is left out follows the paper: N, r
            and init of the backbone's NOAH model, or the init of its baseline.

    Raises:
        ValueError: An unknown name or width, an argument that this backbone or head lacks, channels that N and r do not
            divide, an image that the patches do not divide.
    """
    published = BACKBONES.get(backbone)
    timm_name, arguments = _timm_name(backbone, published, width)
    head, head_kwargs = _resolve_head(head, published, head_kwargs)
    accepted = _accepted(timm_name)

    def optional(name: str, value, *spellings: str) -> None:
        if value:
            spelling = next((s for s in spellings if s in accepted), None)
            if spelling is None:
                raise ValueError(f"backbone '{backbone}': {name} is {value}, expected none: it cannot be set here")
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

    create = create_mlp if timm_name in MLPS else timm.create_model
    try:
        body = create(timm_name, num_classes=0, global_pool="", in_chans=in_chans, **arguments)
    except TypeError as error:  # some of timm's entry points fix an argument that their class takes
        if "multiple values" not in str(error):
            raise
        raise ValueError(f"backbone '{backbone}': {error}; timm fixes it for this model") from error
    if stem_stride:
        if not hasattr(body, "conv_stem"):
            raise ValueError(
                f"backbone '{backbone}': stem_stride is {stem_stride}, expected none: it cannot be set here"
            )
        body.conv_stem.stride = (stem_stride, stem_stride)
    img_size = img_size or body.default_cfg["input_size"][-1]
    model = Classifier(body, head, num_classes, img_size=img_size, in_chans=in_chans, **head_kwargs)
    _check(model, backbone)
    return model


def describe(model: Classifier) -> dict:
    """What stands in a run's arm.json about its model: the facts in which arms can differ besides the head."""
    shadow, image = model.on_meta()
    shape = shadow.forward_features(image).shape
    others = getattr(model.backbone, "num_prefix_tokens", 0) if model.takes_class_token else 0
    return {
        "class_token": _has_class_token(model.backbone),
        "positions": shape[2] * shape[3] if len(shape) == 4 else shape[1] - others,
        "in_features": model.num_features,
        "parameters": sum(p.numel() for p in model.parameters()),
        "head_parameters": sum(p.numel() for p in model.get_classifier().parameters()),
        "moved_layers": [],
    }


def _timm_name(backbone: str, published: Backbone | None, width: float) -> tuple[str, dict]:
    """timm's name, and the arguments that narrow it."""
    if published is None and not timm.is_model(backbone):
        raise ValueError(f"backbone is '{backbone}', expected one of {', '.join(BACKBONES)}, or a model of timm")
    widths = published.widths if published else (1.0,)
    if width not in widths:
        raise ValueError(f"backbone '{backbone}': width is {width}, expected one of {', '.join(map(str, widths))}")
    return (published.timm[width], dict(published.overrides.get(width, {}))) if published else (backbone, {})


def _resolve_head(head: str, published: Backbone | None, given: dict) -> tuple[str, dict]:
    """Fill in what is left to the paper."""
    family = published.family if published else None
    if head == "baseline":
        head = BASELINE_HEAD.get(family, "gap")
    if head != "noah":
        return head, {"init": BASELINE_INIT.get(family, "default"), **given}
    defaults = {"num_heads": published.num_heads, "key_ratio": published.key_ratio} if published else {}
    return head, {**defaults, "init": NOAH_INIT.get(family, "official"), **given}


def _timm_output_stride(output_stride: int | None, stem_stride: int | None) -> int | None:
    """timm counts the stem's stride as 2, whatever it is then set to."""
    if output_stride is None or stem_stride != 1:
        return output_stride
    if output_stride > 16:
        raise ValueError(f"output_stride is {output_stride}, expected at most 16 with stem_stride 1")
    return output_stride * 2


@lru_cache
def _accepted(timm_name: str) -> frozenset[str]:
    """The arguments of the class behind timm's name, which only a built model tells; built without memory."""
    with torch.device("meta"):
        return frozenset(inspect.signature(type(timm.create_model(timm_name))).parameters)


def _has_class_token(backbone: nn.Module) -> bool:
    return getattr(backbone, "cls_token", None) is not None


def _check(model: Classifier, backbone: str) -> None:
    """Refuse, in one line, a combination that would fail or mislead later."""
    body, size = model.backbone, model.img_size
    if model.takes_class_token and not _has_class_token(body):
        raise ValueError(f"head '{model.head_name}' needs a class token, which backbone '{backbone}' does not have")
    if isinstance(body, VisionTransformer | MlpMixer) and size % body.feature_info[-1]["reduction"]:
        patch = body.feature_info[-1]["reduction"]
        raise ValueError(f"backbone '{backbone}': img_size is {size}, expected a multiple of its patch size ({patch})")
    shadow, image = model.on_meta()
    features = shadow.backbone.forward_features(image)
    if shadow.backbone.forward_head(features, pre_logits=True) is not features:
        raise ValueError(f"backbone '{backbone}' has layers behind its pooling; no head can take their place yet")
    features = shadow.forward_features(image)
    channels = features.shape[1 if features.ndim == 4 else -1]
    if features.ndim not in (3, 4) or channels != model.num_features:
        raise ValueError(
            f"backbone '{backbone}' gives features {tuple(features.shape)}, expected (B, C, H, W) or (B, L, C) with "
            f"C = {model.num_features}"
        )
