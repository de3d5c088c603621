"""What a backbone of timm hands to a head, found out by sending an image of shapes only through it."""

import copy
import re
from dataclasses import dataclass
from functools import lru_cache

import timm
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """The output of a backbone's `forward_features`, and what timm puts between it and the classifier.

    Args:
        layout: `NCHW`, `NHWC` or `NLC`; where timm flattens a map on its way to the classifier, what it is then.
        channels: C of that output.
        positions: L, without the prefix tokens.
        prefix_tokens: Class, distillation and register tokens in front of the positions.
        moved: Layers with weights that timm has between features and classifier, here applied to every position
            before any pooling: behind these features where they are `between`, else already in them.
        between: Whether timm does anything there; what has no weights (an activation) is then applied too.
        out_channels: C behind those layers.
        left_out: Layers with weights that are a part of timm's own classifier besides one linear layer: a norm in it, a
            second classifier. No head has them.
    """

    layout: str
    channels: int
    positions: int
    prefix_tokens: int
    moved: tuple[str, ...]
    between: bool
    out_channels: int
    left_out: tuple[str, ...] = ()


def probe(backbone: nn.Module, name: str, in_chans: int, img_size: int) -> Features:
    """The features of a backbone built with `num_classes=0` and, where it can be, without pooling; for square images.

    Raises:
        ValueError: Images of this size do not fit, or the features are no map and no tokens of `num_features`
            channels, or there are layers behind them that cannot be applied to every position.
    """
    shadow = without_weights(backbone).eval()
    image = torch.empty(1, in_chans, img_size, img_size, device="meta")
    try:
        features = shadow.forward_features(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"backbone '{name}': img_size is {img_size}, which it does not take: {reason}") from error
    layout, channels = _layout(shadow, name, features)
    prefix = _prefix_tokens(shadow) if layout == "NLC" else 0
    positions = features.numel() // channels - prefix
    if positions < 1:
        raise ValueError(f"backbone '{name}' hands on its class token alone, expected positions too")
    after, moved = _forward_head(shadow, features)
    axis = 1 if layout == "NCHW" else -1
    flattened = layout == "NHWC" and isinstance(after, Tensor) and after.shape[:-1] == (1, positions)
    keeps = flattened or (isinstance(after, Tensor) and _size(after, axis) == _size(features, axis))
    if moved and not keeps:
        raise ValueError(
            f"backbone '{name}' has layers between features and classifier that do not keep the positions "
            f"({', '.join(moved)}), so no head can stand behind them"
        )
    between = keeps and after is not features
    out_channels = after.shape[axis] if keeps else channels
    return Features("NLC" if flattened else layout, channels, positions, prefix, tuple(moved), between, out_channels)


@lru_cache
def by_itself(timm_name: str) -> nn.Module:
    """timm's model as its name alone gives it, without memory; shared by all who ask."""
    with torch.device("meta"):
        return timm.create_model(timm_name)


@lru_cache
def left_out(timm_name: str) -> tuple[str, ...]:
    """See `Features.left_out`: what goes when timm is asked for no classes, without the classifier that it names."""
    whole = by_itself(timm_name)
    with torch.device("meta"):
        body = timm.create_model(timm_name, num_classes=0)
    names = whole.state_dict().keys()
    gone = {name.rpartition(".")[0] for name in names - body.state_dict().keys()}
    # Pooling by attention stays without classes, but goes with the pooling, in whose place our heads are.
    gone |= {name.rpartition(".")[0] for name in names if name.startswith("attn_pool.")}
    classifier = whole.default_cfg.get("classifier")
    first = classifier if isinstance(classifier, str) or classifier is None else classifier[0]
    return tuple(sorted(gone - {first, ""}))


def without_weights(module: nn.Module) -> nn.Module:
    """A copy on the meta device, which computes shapes only. The weights are not copied on the way."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): _on_meta(tensor) for tensor in tensors})


def _on_meta(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _size(x: Tensor, axis: int) -> torch.Size:
    """The shape without the axis of the channels."""
    return x.movedim(axis, 0).shape[1:]


def _prefix_tokens(backbone: nn.Module) -> int:
    """timm counts them, except for a few models that have nothing but class tokens."""
    tokens = [tensor for name, tensor in backbone.named_parameters() if re.fullmatch(r"cls_token\d*", name)]
    return getattr(backbone, "num_prefix_tokens", tokens[-1].shape[1] if tokens else 0)


def _layout(backbone: nn.Module, name: str, features: object) -> tuple[str, int]:
    """timm says `output_fmt` of most NHWC models; elsewhere the axis of `num_features` channels tells."""
    channels = backbone.num_features
    shape = tuple(features.shape) if isinstance(features, Tensor) else ()
    if len(shape) == 3 and shape[-1] == channels:
        return "NLC", channels
    if len(shape) == 4:
        last = shape[-1] == channels and (shape[1] != channels or getattr(backbone, "output_fmt", "") == "NHWC")
        if last or shape[1] == channels:
            return ("NHWC" if last else "NCHW"), channels
    raise ValueError(
        f"backbone '{name}' gives features {shape or type(features).__name__}, expected (B, C, H, W), (B, H, W, C) or "
        f"(B, L, C) with C = {channels}"
    )


def _forward_head(backbone: nn.Module, features: Tensor) -> tuple[object, list[str]]:
    """What timm would give its classifier, and the names of the layers with weights on the way."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in backbone.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    after = backbone.forward_head(features, pre_logits=True)
    for hook in hooks:
        hook.remove()
    return after, called
