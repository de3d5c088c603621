"""Heads: modules from features, (B, C, H, W) or (B, L, C), to class scores, (B, M). Needs torch alone.

A head of your own is a module with that signature and one entry in `HEADS`. Where its class says
`takes_class_token = True`, it gets (B, 1 + L, C) from a backbone that was built with a class token; where it says
`takes_positions = True`, its argument `positions` is the L of the backbone.
"""

import inspect
from collections.abc import Callable

from torch import nn

from noah.heads.attention_pool import AttentionPool
from noah.heads.baselines import ClassToken, GlobalAveragePool, MovedGap
from noah.heads.checks import check_choice
from noah.heads.class_attention import ClassAttention
from noah.heads.csra import CSRA
from noah.heads.hidden import GapHidden, HiddenGap
from noah.heads.ml_decoder import MLDecoder
from noah.heads.noah import NOAH
from noah.heads.simpool import SimPool

HEADS: dict[str, Callable[..., nn.Module]] = {
    "gap": GlobalAveragePool,
    "token": ClassToken,
    "noah": NOAH,
    "gap_hidden": GapHidden,
    "hidden_gap": HiddenGap,
    "moved_gap": MovedGap,
    "csra": CSRA,
    "attention_pool": AttentionPool,
    "ml_decoder": MLDecoder,
    "simpool": SimPool,
    "class_attention": ClassAttention,
}

__all__ = [
    "CSRA",
    "HEADS",
    "NOAH",
    "AttentionPool",
    "ClassAttention",
    "ClassToken",
    "GapHidden",
    "GlobalAveragePool",
    "HiddenGap",
    "MLDecoder",
    "MovedGap",
    "SimPool",
    "build_head",
]


class UnknownArgument(ValueError, TypeError):
    """What a bad value raises here, and what Python and timm raise for a keyword that nobody takes."""


def build_head(name: str, in_features: int, num_classes: int, **kwargs) -> nn.Module:
    """A head by its name in `HEADS`.

    Args:
        name: A key of `HEADS`, such as `noah`.
        in_features: C.
        num_classes: M.
        **kwargs: Arguments of that head.

    Raises:
        ValueError: An unknown name, arguments that the head does not have or refuses.
    """
    check_choice("head", name, HEADS)
    _, _, *valid = inspect.signature(HEADS[name]).parameters
    for field in kwargs:
        if field not in valid:
            raise UnknownArgument(f"head '{name}': unknown argument '{field}', expected one of {', '.join(valid)}")
    return HEADS[name](in_features, num_classes, **kwargs)
