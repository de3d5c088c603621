"""The NOAH head as the paper writes it, for reading and for checking others against.

It holds several (B, N, M, P) tensors at once: clear, and neither fast nor small.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=-1),
    "softmax_categories": lambda logits: logits.softmax(dim=-2),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}
"""From key logits (B, N, M, P) to attention of the same shape; the paper's is `softmax`, over the P positions."""


def attention(keys: Tensor, query: nn.Conv2d, *, num_heads: int, score: str) -> Tensor:
    """Attention of every head and class over the positions.

    Args:
        keys: Key channels of the map, (B, Ck, H, W).
        query: Grouped convolution from Ck to N*M channels.

    Returns:
        (B, N, M, P), P = H * W.
    """
    return SCORES[score](query(keys).flatten(2).unflatten(1, (num_heads, -1)))


def forward(
    keys: Tensor, values: Tensor, query: nn.Conv2d, value: nn.Conv2d, *, num_heads: int, score: str, drop_rate: float
) -> Tensor:
    """Each head's answer per class: the values, averaged with the attention as weights.

    Args:
        keys: Key channels of the map, (B, Ck, H, W).
        values: Value channels of the map, (B, Cv, H, W).
        query: Grouped convolution from Ck to N*M channels.
        value: Grouped convolution from Cv to N*M channels.
        num_heads: N.
        score: A name of `SCORES`.
        drop_rate: Share of the values that is dropped; 0 outside of training.

    Returns:
        (B, N, M); the sum over N are the class scores.
    """
    weights = attention(keys, query, num_heads=num_heads, score=score)
    scores = value(values).flatten(2).unflatten(1, (num_heads, -1))
    scores = F.dropout(scores, drop_rate, training=drop_rate > 0)
    return (weights * scores).sum(dim=-1)
