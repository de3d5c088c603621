"""The two layouts that backbones hand to a head: a map (B, C, H, W), or tokens (B, L, C)."""

from torch import Tensor


def as_map(x: Tensor, in_features: int) -> Tensor:
    """(B, C, H, W) as it is, (B, L, C) as (B, C, L, 1), without copying.

    Raises:
        ValueError: Neither layout, or not `in_features` channels.
    """
    if x.ndim == 3:
        x = x.transpose(1, 2).unsqueeze(-1)
    if x.ndim != 4 or x.shape[1] != in_features:
        raise ValueError(
            f"features of shape {tuple(x.shape)}, expected (B, C, H, W) or (B, L, C) with C = {in_features} channels"
        )
    return x


def mean_over_positions(x: Tensor) -> Tensor:
    """(B, C, H, W) or (B, L, C) to (B, C)."""
    return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1)
