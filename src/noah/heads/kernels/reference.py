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


def attention(x: Tensor, query: nn.Conv2d, *, num_heads: int, score: str) -> Tensor:
    """Attention of every head and class over the positions.

    Args:
        x: (B, C, H, W). The first channels, as many as `query` takes, are the keys.
        query: Grouped convolution to N*M channels.

    Returns:
        (B, N, M, P), P = H * W.
    """
    keys = x[:, : query.in_channels]
    return SCORES[score](query(keys).flatten(2).unflatten(1, (num_heads, -1)))


def forward(
    x: Tensor, query: nn.Conv2d, value: nn.Conv2d, *, num_heads: int, drop_rate: float, score: str = "softmax"
) -> Tensor:
    """Each head's answer per class: the values, averaged with the attention as weights.

    Args:
        x: (B, C, H, W). The first channels are the keys, the last the values; as many as `query` and `value` take,
            which is all of them for both where keys and values are not split.
        query: Grouped convolution to N*M channels.
        value: The same.
        num_heads: N.
        drop_rate: Share of the values that is dropped; 0 outside of training.
        score: A name of `SCORES`.

    Returns:
        (B, N, M); the sum over N are the class scores.
    """
    weights = attention(x, query, num_heads=num_heads, score=score)
    values = x[:, x.shape[1] - value.in_channels :]
    scores = value(values).flatten(2).unflatten(1, (num_heads, -1))
    if drop_rate:
        scores = F.dropout(scores, drop_rate)
    return (weights * scores).sum(dim=-1)
