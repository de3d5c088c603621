"""SimPool (Psomas et al., "Keep It SimPool", ICCV 2023, arXiv 2309.06891; official code billpsomas/simpool)."""

import torch
from torch import Tensor, nn

from noah.heads.baselines import PooledLinear
from noah.heads.checks import check_above_zero
from noah.heads.positions import as_tokens

EPSILON = 1e-6


class SimPool(PooledLinear):
    """(B, C, H, W) or (B, L, C) to (B, M): the mean of the features asks, the positions answer; dropout, linear.

    With u the mean over positions and p = LayerNorm(x), both (., C):

        a[b, l] = softmax_l(query(u) . key(p[l]) / sqrt(C)),   v = p - min(p) + 1e-6
        pooled[b, c] = (sum_l a[b, l] * v[b, l, c]^gamma)^(1 / gamma)

    The minimum is over one image, as in the paper; the official code takes it over the batch, which would make a
    prediction depend on its neighbours.

    Parameters: 2*C^2 + 2*C, and C*M + M of the last layer.

    Args:
        in_features: C.
        num_classes: M.
        drop_rate: Dropout before the last layer.
        init: How the last layer starts, as GlobalAveragePool.
        gamma: Exponent > 0 of the generalised mean: 2 for CNNs, 1.25 for vision transformers in the paper.
        device, dtype: Where and as what the weights are made, as in torch's own layers.

    Raises:
        ValueError: An unknown or impossible argument; in use: features of another shape.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        drop_rate: float = 0.0,
        *,
        init: str = "default",
        gamma: float = 2.0,
        device=None,
        dtype=None,
    ):
        check_above_zero(gamma=gamma)
        dd = {"device": device, "dtype": dtype}
        super().__init__(in_features, num_classes, drop_rate, init=init, **dd)
        self.gamma = gamma
        self.norm = nn.LayerNorm(in_features, eps=1e-6, **dd)
        self.query = nn.Linear(in_features, in_features, bias=False, **dd)
        self.key = nn.Linear(in_features, in_features, bias=False, **dd)

    def pool(self, x: Tensor) -> Tensor:
        x = as_tokens(x, self.in_features)
        patches = self.norm(x)
        weights, values = self._attention(x, patches), patches - patches.amin((1, 2), keepdim=True)
        # In half precision EPSILON to the power of gamma is 0, whose root has no gradient.
        dtype = torch.promote_types(values.dtype, torch.float32)
        values = (values.to(dtype) + EPSILON).pow(self.gamma)
        return (weights.to(dtype) @ values).pow(1 / self.gamma).squeeze(1).to(x.dtype)

    def position_weights(self, x: Tensor) -> Tensor:
        """(B, 1, L): its attention, the same for all classes."""
        x = as_tokens(x, self.in_features)
        return self._attention(x, self.norm(x))

    def _attention(self, x: Tensor, patches: Tensor) -> Tensor:
        query = self.query(x.mean(1, keepdim=True)) * self.in_features**-0.5
        return (query @ self.key(patches).transpose(1, 2)).softmax(-1)
