"""What `build_model` refuses, and what it warns of."""

import warnings

import timm
from timm.models import MlpMixer, VisionTransformer
from torch import nn

from noah.heads import HEADS
from noah.models.classifier import POOLS_FIRST

OUTPUT_STRIDES = (2, 4, 8, 16, 32)
"""Pixels per position that strides of 2 can give."""
FEWEST_POSITIONS = 4
"""Below, a head that weighs positions is hardly another model than their mean."""


def check_arguments(
    backbone: str,
    img_size: int | None,
    depth: int | None,
    output_stride: int | None,
    proj_drop_rate: float,
    drop_path_rate: float,
) -> None:
    """Refuse, in one line, what timm accepts in silence or dies of."""
    if "." in backbone:
        raise ValueError(
            f"backbone is '{backbone}', expected a name without a tag, '{backbone.partition('.')[0]}': "
            "weights are not downloaded here (docs/weights.md)"
        )
    for name, value in (("img_size", img_size), ("depth", depth), ("output_stride", output_stride)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"backbone '{backbone}': {name} is {value}, expected a number from 1 on")
    if output_stride is not None and output_stride not in OUTPUT_STRIDES:
        expected = ", ".join(map(str, OUTPUT_STRIDES))
        raise ValueError(f"backbone '{backbone}': output_stride is {output_stride}, expected one of {expected}")
    for name, value in (("proj_drop_rate", proj_drop_rate), ("drop_path_rate", drop_path_rate)):
        if not 0 <= value < 1:
            raise ValueError(f"backbone '{backbone}': {name} is {value}, expected at least 0 and below 1")


def check_backbone_kwargs(backbone: str, given: dict, arguments: dict) -> None:
    """What `build_model` sets itself cannot be given a second time."""
    own = {"num_classes", "in_chans", "global_pool", "class_token", *arguments} & given.keys()
    if own:
        name = min(own)
        raise ValueError(
            f"backbone '{backbone}': backbone_kwargs has {name} ({given[name]!r}), expected none: build_model sets it"
        )


def check_classifies(body: nn.Module, backbone: str) -> None:
    """Refuse encoders, which timm has no classifier for: there is no baseline that a head could be compared with."""
    if hasattr(body, "reset_classifier"):
        return
    other = backbone.removesuffix("_enc")
    example = f", such as '{other}'" if timm.is_model(other) and other != backbone else ""
    raise ValueError(
        f"backbone '{backbone}' is an encoder with no classifier in timm, expected a model with one{example}"
    )


def check_combination(body: nn.Module, backbone: str, head: str, img_size: int) -> None:
    """Refuse, in one line, a combination that would fail or mislead later."""
    if getattr(HEADS.get(head), "takes_class_token", False) and not has_class_token(body):
        raise ValueError(f"head '{head}' needs a class token, which backbone '{backbone}' does not have")
    if isinstance(body, VisionTransformer | MlpMixer) and img_size % body.feature_info[-1]["reduction"]:
        patch = body.feature_info[-1]["reduction"]
        raise ValueError(
            f"backbone '{backbone}': img_size is {img_size}, expected a multiple of its patch size ({patch})"
        )


def warn_of_few_positions(positions: int, backbone: str, head: str, accepted: frozenset[str], stem: bool) -> None:
    if positions >= FEWEST_POSITIONS or head in POOLS_FIRST or getattr(HEADS.get(head), "takes_class_token", False):
        return
    ways = [name for name in ("output_stride", "patch_size") if name in accepted]
    ways = ["larger images", *(["a smaller stem_stride"] if stem else []), *(f"a smaller {name}" for name in ways)]
    said = "one position: nothing to attend to" if positions == 1 else f"{positions} positions"
    warnings.warn(f"head '{head}' on backbone '{backbone}' sees {said}; {' or '.join(ways)} give more", stacklevel=3)


def has_class_token(backbone: nn.Module) -> bool:
    return getattr(backbone, "has_class_token", getattr(backbone, "cls_token", None) is not None)
