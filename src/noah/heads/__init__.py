"""Heads: modules from features, (B, C, H, W) or (B, L, C), to class scores, (B, M). Needs torch alone.

A head of your own is a module with that signature and one entry in `HEADS`. Where its class says
`takes_class_token = True`, it gets (B, 1 + L, C) from a backbone that was built with a class token.
"""

from collections.abc import Callable

from torch import nn

from noah.heads.baselines import ClassToken, GlobalAveragePool
from noah.heads.noah import NOAH

HEADS: dict[str, Callable[..., nn.Module]] = {"gap": GlobalAveragePool, "token": ClassToken, "noah": NOAH}

__all__ = ["HEADS", "NOAH", "ClassToken", "GlobalAveragePool", "build_head"]


def build_head(name: str, in_features: int, num_classes: int, **kwargs) -> nn.Module:
    """A head by its name in `HEADS`.

    Args:
        name: `gap`, `token` or `noah`.
        in_features: C.
        num_classes: M.
        **kwargs: Arguments of that head.

    Raises:
        ValueError: An unknown name, or arguments that the head refuses.
    """
    if name not in HEADS:
        raise ValueError(f"head is '{name}', expected one of {', '.join(HEADS)}")
    return HEADS[name](in_features, num_classes, **kwargs)
