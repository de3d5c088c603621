"""The two layouts that backbones hand to a head: a map (B, C, H, W), or tokens (B, L, C)."""

from torch import Tensor


def as_map(x: Tensor, in_features: int) -> Tensor:
    """(B, C, H, W) as it is, (B, L, C) as (B, C, L, 1), without copying.

    Raises:
        ValueError: Neither layout, or not `in_features` channels.
    """
    _check(x, in_features)
    return x.transpose(1, 2).unsqueeze(-1) if x.ndim == 3 else x


def as_tokens(x: Tensor, in_features: int) -> Tensor:
    """(B, L, C) as it is, (B, C, H, W) as (B, H*W, C).

    Raises:
        ValueError: Neither layout, or not `in_features` channels.
    """
    _check(x, in_features)
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


def mean_over_positions(x: Tensor) -> Tensor:
    """(B, C, H, W) or (B, L, C) to (B, C)."""
    return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1)


def attention_weights(queries: Tensor, keys: Tensor, num_heads: int) -> Tensor:
    """What dot-product attention gives each position, the mean over its heads: (B, Q, C), (B, L, C) to (B, Q, L)."""
    queries, keys = (x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (queries, keys))
    scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
    return scores.softmax(-1).mean(1)


def _check(x: Tensor, in_features: int) -> None:
    if x.ndim not in (3, 4) or x.shape[1 if x.ndim == 4 else 2] != in_features:
        raise ValueError(
            f"features of shape {tuple(x.shape)}, expected (B, C, H, W) or (B, L, C) with C = {in_features} channels"
        )
