"""The NOAH head as the paper's code computes it: what ours is measured against."""

from typing import NamedTuple

from torch import Tensor, nn


class Shape(NamedTuple):
    """A head of the paper: its features are (B, C, side, side)."""

    channels: int
    num_heads: int
    key_ratio: float
    side: int
    num_classes: int = 1000


class Official(nn.Module):
    """The formulation of the official code (OSVAI/NOAH, commit 2449201), whose (B, N, M, L) tensors are all there.

    Args:
        shape: Of the head.
        drop_rate: Of the values.
    """

    def __init__(self, shape: Shape, drop_rate: float = 0.0):
        super().__init__()
        self.num_heads, self.key_channels = shape.num_heads, int(shape.channels * shape.key_ratio)
        outputs = shape.num_heads * shape.num_classes
        self.query = nn.Conv2d(self.key_channels, outputs, 1, groups=shape.num_heads)
        self.value = nn.Conv2d(shape.channels - self.key_channels, outputs, 1, groups=shape.num_heads)
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = x[:, : self.key_channels], x[:, self.key_channels :]
        attention = self.query(keys).flatten(2).unflatten(1, (self.num_heads, -1)).softmax(-1)
        scores = self.dropout(self.value(values).flatten(2).unflatten(1, (self.num_heads, -1)))
        return (attention * scores).sum(-1).sum(1)
